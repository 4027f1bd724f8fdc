"""Two copies of one job's row, from two ledgers, made one. Pure.

The join is commutative, associative and idempotent, so rows may arrive twice, late and in any order, and ledgers that
have heard the same rows agree. What ended stays ended, and an end that receipts prove comes before one that a sweeper
made; among running rows the later attempt wins, then the later lease. Billed tokens only grow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec

from p2p.errors import FRAME_INVALID, TetherError
from tetherd.store.jobs import MAX_ATTEMPTS, MAX_CAUSE_CHARS, MAX_RECEIPTS, joined_receipts, under_way
from tetherd.store.protocol import JobRecord, JobState

MAX_TEXT_CHARS: Final = 512
"""Tenant, token, model and the like: what admission lets in is shorter."""
MAX_RECEIPT_BYTES: Final = 2_048
_STRENGTH: Final[dict[JobState, int]] = {
    "running": 0,
    "dead_lettered": 1,
    "failed": 2,
    "cancelled": 3,
    "done": 4,
}
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(JobRecord)


def merged(stored: JobRecord | None, copy: JobRecord) -> JobRecord:
    """The row that holds what both know."""
    if stored is None:
        return copy
    winner = max(stored, copy, key=_rank)
    return replace(
        winner,
        prompt_tokens=max(stored.prompt_tokens, copy.prompt_tokens),
        tokens=max(stored.tokens, copy.tokens),
        receipts=joined_receipts(stored.receipts, copy.receipts),
    )


def pack(row: JobRecord) -> bytes:
    return _ENCODER.encode(row)


def unpack(data: bytes) -> JobRecord:
    """Raises TetherError(FRAME_INVALID) for what no ledger of ours would send."""
    try:
        row = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TetherError(FRAME_INVALID, f"These bytes are no job: {error}.") from error
    texts = (
        row.tenant,
        row.retry_token,
        row.model,
        row.digest,
        row.gateway,
        row.owner,
        row.trace_id,
        row.key_id,
    )
    counts = (row.attempt, row.prompt_tokens, row.tokens, row.max_prompt_tokens, row.max_tokens)
    if (
        len(row.job) != 32
        or len(row.request_mac) > 64
        or len(row.attempts) > MAX_ATTEMPTS
        or len(row.receipts) > MAX_RECEIPTS
        or any(len(receipt) > MAX_RECEIPT_BYTES for receipt in row.receipts)
        or len(row.cause) > MAX_CAUSE_CHARS
        or any(len(text) > MAX_TEXT_CHARS for text in texts)
        or any(not 0 <= count < 1 << 53 for count in counts)
        or (row.ended is None) != (row.state == "running")
    ):
        raise TetherError(FRAME_INVALID, "A job's row has a field out of bounds.")
    return row


def _rank(row: JobRecord) -> tuple[int, int, bool, float, int, bytes]:
    """A total order over all but what is joined by itself: else a row that was joined once would rank anew."""
    shares = sum(one.tokens for one in row.attempts)
    rest = pack(replace(row, prompt_tokens=0, tokens=0, receipts=()))
    return (_STRENGTH[row.state], row.attempt, not under_way(row), row.lease_until, shares, rest)
