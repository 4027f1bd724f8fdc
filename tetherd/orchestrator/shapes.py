"""Jobs in the shapes that tools rely on (docs/operations.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2p.errors import CANCELLED, CATALOGUE, FIELD_INVALID, NOT_FOUND, TetherError
from tetherd.store.jobs import span_of, under_way
from tetherd.store.protocol import AttemptRecord, JobRecord


def job_shape(row: JobRecord) -> dict[str, Any]:
    return {
        "job": row.job.hex(),
        "tenant": row.tenant,
        "model": row.model,
        "state": row.state,
        "promptTokens": row.prompt_tokens,
        "tokens": row.tokens,
        "attempts": [_attempt_shape(attempt) for attempt in row.attempts],
        "cause": row.cause,
        "advice": advice(row),
    }


def why_shape(prefix: str, found: Sequence[JobRecord]) -> dict[str, Any]:
    """The one job that was meant. Raises TetherError(NOT_FOUND | FIELD_INVALID)."""
    if span_of(prefix) is None or not prefix:
        raise TetherError(FIELD_INVALID, "A job's id is up to 64 hex digits, in lower case.", field="job")
    if not found:
        detail = f"This ledger has no job {prefix[:16]}: another orchestrator of the region may have it."
        raise TetherError(NOT_FOUND, detail, field="job")
    if len(found) > 1:
        raise TetherError(
            FIELD_INVALID, f"{len(found)} jobs begin with {prefix}: give more digits.", field="job"
        )
    return job_shape(found[0])


def advice(row: JobRecord) -> str:
    """What to do about how the job went."""
    if row.state == "running" and under_way(row):
        return "Wait: it is under way."
    if row.state == "cancelled":
        return CANCELLED.advice
    causes = [row.cause, *(attempt.cause for attempt in reversed(row.attempts))]
    code = next((CATALOGUE[cause] for cause in causes if cause in CATALOGUE), None)
    if row.state == "done":
        return f"Nothing: another worker went on. One attempt ended with {code.name}." if code else "Nothing."
    return code.advice if code else "See the log of the gateway that sent it."


def _attempt_shape(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "worker": attempt.worker,
        "region": attempt.region,
        "start": attempt.start,
        "firstToken": attempt.first_token,
        "tokens": attempt.tokens,
        "end": attempt.end,
        "cause": attempt.cause,
    }
