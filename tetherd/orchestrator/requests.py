"""The bounds of what peers ask of an orchestrator. Pure."""

from __future__ import annotations

from math import isfinite
from typing import Final

from p2p.errors import OUT_OF_RANGE, TetherError
from p2p.job_id import job_id
from p2p.messages import MAX_PREFIXES, PREFIX_BYTES, PlacementRequest, Settlement
from tetherd.identity.tokens import MAX_TOKEN_BYTES, OIDC

MAX_DEADLINE_S: Final = 600.0
"""What the openai client waits by default."""
MAX_TOKENS: Final = 1_000_000
MAX_ATTEMPT: Final = 10_000
"""Every worker that refuses uses up a number; nobody gets here who means well."""
MAX_EXCLUDED: Final = 64
MAX_TEXT_CHARS: Final = 256
MAX_RECEIPTS: Final = 16
MAC_BYTES: Final = 32
INPUT_BYTES: Final = 16


def check_placement_request(request: PlacementRequest) -> None:
    """Raises TetherError(OUT_OF_RANGE) naming the field."""
    job = job_id(request.tenant_id, request.retry_token)
    _check(
        jobMatchesTenantAndRetryToken=request.job == job,
        tenantId=0 < len(request.tenant_id) <= MAX_TEXT_CHARS,
        modelId=0 < len(request.model_id) <= MAX_TEXT_CHARS,
        version=len(request.version) <= MAX_TEXT_CHARS,
        retryToken=0 < len(request.retry_token) <= MAX_TEXT_CHARS,
        cause=len(request.cause) <= MAX_TEXT_CHARS,
        traceId=len(request.trace_id) <= MAX_TEXT_CHARS,
        requestMac=len(request.request_mac) == MAC_BYTES,
        deadlineS=0.0 < request.deadline_s <= MAX_DEADLINE_S,
        maxTokens=0 < request.max_tokens <= MAX_TOKENS,
        maxPromptTokens=0 <= request.max_prompt_tokens <= MAX_TOKENS,
        lastAttempt=0 <= request.last_attempt < MAX_ATTEMPT,
        keyId=len(request.key_id) <= MAX_TEXT_CHARS,
        proof=len(request.proof) in (0, MAC_BYTES)
        or (request.key_id == OIDC and len(request.proof) <= MAX_TOKEN_BYTES),
        input=len(request.input) in (0, INPUT_BYTES),
        exclude=len(request.exclude) <= MAX_EXCLUDED,
        prefixes=len(request.prefixes) <= MAX_PREFIXES
        and all(len(digest) == PREFIX_BYTES for digest in request.prefixes),
    )


def check_settlement(settlement: Settlement) -> None:
    """Raises TetherError(OUT_OF_RANGE) naming the field."""
    first = settlement.first_token_s
    _check(
        job=len(settlement.job) == 32,
        attempt=0 < settlement.attempt <= MAX_ATTEMPT,
        receipts=len(settlement.receipts) <= MAX_RECEIPTS,
        firstTokenS=first is None or (isfinite(first) and 0.0 <= first <= MAX_DEADLINE_S),
        cause=len(settlement.cause) <= MAX_TEXT_CHARS,
        input=len(settlement.input) in (0, INPUT_BYTES),
    )


def _check(**holds: bool) -> None:
    for field, good in holds.items():
        if not good:
            raise TetherError(OUT_OF_RANGE, f"{field} is out of bounds.", field=field)
