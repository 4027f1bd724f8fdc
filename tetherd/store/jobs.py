"""The life of a job's row. Pure: both drivers load a row, ask here what it becomes, and write that.

    running ──claim──> running (attempt + 1)         the same gateway, or a lease that ran out
    running ──renew──> running (later lease)         the current attempt's worker
    running ──settle─> done | failed | cancelled     compare-and-set on attempt
    running ──sweep──> dead_lettered                 lease and deadline have passed
    ended   ──settle─> the same state                a late receipt can only raise the billed tokens
    ended   ──claim──> (RESULT_GONE)

The attempt number fences everything: whoever acts for a lower one is answered that it is over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from p2p.errors import IN_FLIGHT, RESULT_GONE, RETRY_TOKEN_CONFLICT, TetherError
from p2p.messages import JobEnd
from tetherd.store.protocol import AttemptRecord, JobRecord

MAX_ATTEMPTS: Final = 16
"""Kept per row; the gateway gives up long before."""
MAX_CAUSE_CHARS: Final = 200


def claim(stored: JobRecord | None, wanted: JobRecord, attempt: AttemptRecord, now: float) -> JobRecord:
    """The row after a claim. wanted.attempt: the last attempt that the gateway knows of. Raises as Store.claim does."""
    if stored is None:
        number = wanted.attempt + 1
        return replace(wanted, attempt=number, state="running", attempts=(replace(attempt, attempt=number),))
    if stored.request_mac != wanted.request_mac:
        raise TetherError(RETRY_TOKEN_CONFLICT, "This Idempotency-Key was used for another request.")
    if stored.state != "running":
        raise TetherError(RESULT_GONE, f"This job has ended: {stored.state}.")
    if stored.gateway != wanted.gateway and stored.lease_until > now:
        wait = stored.lease_until - now
        raise TetherError(IN_FLIGHT, "Another gateway is being answered under this key.", retry_after_s=wait)
    number = max(stored.attempt, wanted.attempt) + 1
    earlier = close_last(stored.attempts, wanted.cause, now)
    return replace(
        stored,
        attempt=number,
        gateway=wanted.gateway,
        owner=wanted.owner,
        lease_until=wanted.lease_until,
        cause=wanted.cause[:MAX_CAUSE_CHARS],
        attempts=(*earlier, replace(attempt, attempt=number))[-MAX_ATTEMPTS:],
    )


def renew(stored: JobRecord | None, attempt: int, grant_id: bytes, lease_until: float) -> JobRecord | None:
    """The row with a longer lease, or None if this attempt is not the one that runs."""
    if stored is None or stored.state != "running" or stored.attempt != attempt:
        return None
    if not stored.attempts or stored.attempts[-1].grant_id != grant_id:
        return None
    return replace(stored, lease_until=max(stored.lease_until, lease_until))


def settle(
    stored: JobRecord,
    attempt: int,
    end: JobEnd,
    *,
    prompt_tokens: int,
    tokens: int,
    first_token: float | None,
    cause: str,
    now: float,
) -> tuple[JobRecord, bool]:
    """The row after a settlement, and whether it ended the job. Billed tokens only grow."""
    billed = replace(
        stored, prompt_tokens=max(stored.prompt_tokens, prompt_tokens), tokens=max(stored.tokens, tokens)
    )
    if stored.state != "running" or attempt < stored.attempt:
        return billed, False
    attempts = close_last(stored.attempts, cause, now, tokens=tokens, first_token=first_token)
    return replace(billed, state=end, cause=cause[:MAX_CAUSE_CHARS], attempts=attempts), True


def overdue(stored: JobRecord, now: float) -> bool:
    return stored.state == "running" and stored.lease_until <= now and stored.deadline <= now


def dead_letter(stored: JobRecord, now: float) -> JobRecord:
    cause = stored.cause or "DEADLINE"
    return replace(
        stored, state="dead_lettered", cause=cause, attempts=close_last(stored.attempts, cause, now)
    )


def close_last(
    attempts: tuple[AttemptRecord, ...],
    cause: str,
    now: float,
    *,
    tokens: int = 0,
    first_token: float | None = None,
) -> tuple[AttemptRecord, ...]:
    """The attempts with the last one ended. tokens: proven for the whole answer; the last has what is new of them."""
    if not attempts or attempts[-1].end is not None:
        return attempts
    before = sum(attempt.tokens for attempt in attempts[:-1])
    last = replace(
        attempts[-1],
        end=now,
        cause=cause[:MAX_CAUSE_CHARS],
        tokens=max(attempts[-1].tokens, tokens - before, 0),
        first_token=attempts[-1].first_token or first_token,
    )
    return (*attempts[:-1], last)
