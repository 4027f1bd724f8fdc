"""One dead letter: why a job died, and who tried. Nothing of its input; that is with its gateway, sealed."""

from __future__ import annotations

from typing import Any

from p2p.identity import PeerId
from p2p.messages import Message
from tetherd.store.protocol import JobRecord


class Try(Message, frozen=True):
    """One attempt at the job. tokens: its part of the answer."""

    worker: PeerId
    attempt: int
    cause: str = ""
    tokens: int = 0


class Letter(Message, frozen=True):
    """job: 32 bytes; created, ended: ledger seconds; input: the tenant's keyed digest of it, 16 bytes, or empty."""

    job: bytes
    tenant: str
    model: str
    gateway: PeerId
    cause: str
    created: float
    ended: float
    trace_id: str = ""
    tries: tuple[Try, ...] = ()
    input: bytes = b""


def letter_of(row: JobRecord, input_digest: bytes = b"") -> Letter:
    """The letter of a row that is dead."""
    return Letter(
        job=row.job,
        tenant=row.tenant,
        model=row.model,
        gateway=row.gateway,
        cause=row.cause,
        created=row.created,
        ended=row.created if row.ended is None else row.ended,
        trace_id=row.trace_id,
        tries=tuple(Try(one.worker, one.attempt, one.cause, one.tokens) for one in row.attempts),
        input=input_digest,
    )


def shape(letter: Letter) -> dict[str, Any]:
    """As `tetherctl dlq` shows it (docs/operations.md)."""
    return {
        "job": letter.job.hex(),
        "tenant": letter.tenant,
        "model": letter.model,
        "gateway": letter.gateway,
        "cause": letter.cause,
        "traceId": letter.trace_id,
        "created": letter.created,
        "ended": letter.ended,
        "attempts": [
            {"worker": one.worker, "attempt": one.attempt, "cause": one.cause, "tokens": one.tokens}
            for one in letter.tries
        ],
    }
