"""The life of a job's row. Pure: both drivers load a row, ask here what it becomes, and write that.

    running ──claim────> running (attempt + 1)       the same gateway, or a lease that ran out
    running ──withdraw─> running (nothing under way) the current attempt found no worker, or its gateway left
    running ──renew────> running (later lease)       the current attempt's worker
    running ──settle───> done | failed | cancelled | dead_lettered      not by a lower attempt
    running ──sweep────> dead_lettered               lease and deadline have passed, an attempt was under way
                         failed | cancelled          … and none was
    ended   ──settle───> the same state              within a lease, a late receipt may raise the billed tokens
    ended   ──claim────> RESULT_GONE

The attempt number fences everything: whoever acts for a lower one is answered that it is over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from p2p.errors import CANCELLED, DEADLINE, IN_FLIGHT, RESULT_GONE, RETRY_TOKEN_CONFLICT, TetherError
from p2p.messages import JobEnd, SignedReceipt
from p2p.wire import decode
from tetherd.quotas.hold import Standing, standing
from tetherd.store.protocol import AttemptRecord, Bill, JobRecord

LEASE_S: Final = 15.0
"""The worker renews it every five seconds, so that two renewals may be lost."""
MAX_ATTEMPTS: Final = 16
"""Kept per row; the gateway gives up long before."""
MAX_CAUSE_CHARS: Final = 200
MAX_RECEIPTS: Final = 32
"""Two an attempt: what a worker says alone may differ from what its gateway saw."""
KEEP_ENDED_S: Final = 7 * 86_400.0
"""Ended jobs are for `why`; a week is longer than anybody asks."""


def claim(stored: JobRecord | None, wanted: JobRecord, attempt: AttemptRecord, now: float) -> JobRecord:
    """The row after a claim. wanted.attempt: the last attempt that the gateway knows of. Raises as Store.claim does."""
    if stored is None:
        number = wanted.attempt + 1
        first = replace(attempt, attempt=number)
        row = replace(wanted, attempt=number, state="running", cause="", attempts=(first,))
        return replace(row, held_until=_held(row))
    if stored.request_mac not in (wanted.request_mac, b"") or stored.model not in (wanted.model, ""):
        raise TetherError(RETRY_TOKEN_CONFLICT, "This Idempotency-Key was used for another request.")
    if stored.state != "running":
        raise TetherError(RESULT_GONE, f"This job has ended: {stored.state}.")
    if stored.gateway != wanted.gateway and stored.lease_until > now:
        wait = stored.lease_until - now
        raise TetherError(IN_FLIGHT, "Another gateway is being answered under this key.", retry_after_s=wait)
    number = max(stored.attempt, wanted.attempt) + 1
    earlier = close_last(stored.attempts, wanted.cause, now)
    row = replace(
        stored,
        attempt=number,
        digest=wanted.digest,
        gateway=wanted.gateway,
        owner=wanted.owner,
        lease_until=wanted.lease_until,
        deadline=max(stored.deadline, wanted.deadline),
        max_prompt_tokens=_bound(stored, stored.max_prompt_tokens, wanted.max_prompt_tokens),
        max_tokens=_bound(stored, stored.max_tokens, wanted.max_tokens),
        cause="",
        attempts=(*earlier, replace(attempt, attempt=number))[-MAX_ATTEMPTS:],
    )
    return replace(row, held_until=_held(row))


def withdraw(stored: JobRecord | None, attempt: int, cause: str, now: float) -> JobRecord | None:
    """The row with its attempt closed and its lease given up, or None if this attempt is not the one that runs."""
    if stored is None or stored.state != "running" or stored.attempt != attempt:
        return None
    cause = cause[:MAX_CAUSE_CHARS]
    begun = len(stored.attempts) > 1 or stored.prompt_tokens > 0
    held = now + LEASE_S if stored.held_until is not None and begun else None
    closed = close_last(stored.attempts, cause, now)
    return replace(stored, cause=cause, lease_until=now, held_until=held, attempts=closed)


def renew(stored: JobRecord | None, attempt: int, grant_id: bytes, lease_until: float) -> JobRecord | None:
    """The row with a longer lease, or None if this attempt is not the one that runs."""
    if stored is None or stored.state != "running" or stored.attempt != attempt or not under_way(stored):
        return None
    if stored.attempts[-1].grant_id != grant_id:
        return None
    return replace(stored, lease_until=max(stored.lease_until, lease_until))


def settle(
    stored: JobRecord,
    attempt: int,
    end: JobEnd,
    bill: Bill,
    first_token: float | None,
    cause: str,
    now: float,
) -> tuple[JobRecord, bool]:
    """The row after a settlement, and whether it ended the job. Billed tokens only grow.

    What is no longer reserved is not billed either: so nobody is charged beyond a quota.
    """
    if stored.ended is not None and now > stored.ended + LEASE_S:
        return stored, False
    billed = stored if _released(stored) else _billed(stored, bill)
    if stored.state != "running" or attempt < stored.attempt:
        if stored.state != "running" and bill.whole:
            billed = replace(billed, held_until=None)
        return billed, False
    cause = cause[:MAX_CAUSE_CHARS]
    attempts = _mark_first_token(close_last(billed.attempts, cause, now), first_token)
    held = None if bill.whole or stored.held_until is None else now + LEASE_S
    return replace(billed, state=end, ended=now, cause=cause, held_until=held, attempts=attempts), True


def _billed(stored: JobRecord, bill: Bill) -> JobRecord:
    return replace(
        stored,
        receipts=joined_receipts(stored.receipts, bill.receipts),
        prompt_tokens=max(stored.prompt_tokens, bill.prompt_tokens),
        tokens=max(stored.tokens, bill.tokens),
        attempts=tuple(
            replace(one, tokens=max(one.tokens, bill.by_attempt.get(one.attempt, 0)))
            for one in stored.attempts
        ),
    )


def last_touch(stored: JobRecord) -> float:
    """No earlier than the last change of the row, in ledger seconds: each one sets a lease or the end."""
    return stored.lease_until if stored.ended is None else max(stored.lease_until, stored.ended + LEASE_S)


def overdue(stored: JobRecord, now: float) -> bool:
    return stored.state == "running" and stored.lease_until <= now and stored.deadline <= now


def swept(stored: JobRecord, now: float) -> JobRecord:
    """The row after its deadline. Whoever was under way died with it; whoever was not has told why."""
    if under_way(stored):
        cause = DEADLINE.name
        attempts = close_last(stored.attempts, cause, now)
        held = now + LEASE_S if stored.held_until is not None else None
        return replace(
            stored, state="dead_lettered", ended=now, cause=cause, held_until=held, attempts=attempts
        )
    end: JobEnd = "cancelled" if stored.cause == CANCELLED.name else "failed"
    return replace(stored, state=end, ended=now, held_until=None)


def release(stored: JobRecord | None, now: float) -> JobRecord | None:
    """The row once what it held is free again, or None if that is free already or not yet to be freed."""
    if stored is None or stored.held_until is None or stored.held_until > now:
        return None
    return None if stored.state == "running" and under_way(stored) else replace(stored, held_until=None)


def standing_of(stored: JobRecord | None) -> Standing:
    """What the job adds to its accounts."""
    if stored is None:
        return Standing()
    running = stored.state == "running" and under_way(stored)
    held = stored.held_until is not None
    return standing(stored.hold, stored.prompt_tokens, stored.tokens, held=held, running=running)


def joined_receipts(ours: tuple[bytes, ...], theirs: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """One for each thing that was signed; with both signatures where there is one with both."""
    best: dict[bytes, bytes] = {}
    for signed in sorted({*ours, *theirs}):
        said = decode(signed, SignedReceipt)
        other = best.get(said.receipt)
        if other is None or not decode(other, SignedReceipt).gateway_signature:
            best[said.receipt] = signed
    return tuple(sorted(best.values()))[:MAX_RECEIPTS]


def under_way(stored: JobRecord) -> bool:
    """Whether an attempt is open."""
    return bool(stored.attempts) and stored.attempts[-1].end is None


def close_last(attempts: tuple[AttemptRecord, ...], cause: str, now: float) -> tuple[AttemptRecord, ...]:
    if not attempts or attempts[-1].end is not None:
        return attempts
    return (*attempts[:-1], replace(attempts[-1], end=now, cause=cause[:MAX_CAUSE_CHARS]))


def _held(row: JobRecord) -> float | None:
    """Two leases after the deadline every job has ended."""
    return None if row.hold is None else row.deadline + 2 * LEASE_S


def _released(stored: JobRecord) -> bool:
    return stored.hold is not None and stored.held_until is None


def _bound(stored: JobRecord, ours: int, wanted: int) -> int:
    """What is reserved for stays what it is."""
    return ours if stored.hold is not None else max(ours, wanted)


def span_of(prefix: str) -> tuple[bytes, bytes] | None:
    """The lowest and the highest job id (32 bytes) that starts with these hex digits; None if none can."""
    if len(prefix) > 64 or not all(digit in "0123456789abcdef" for digit in prefix):
        return None
    return bytes.fromhex(prefix.ljust(64, "0")), bytes.fromhex(prefix.ljust(64, "f"))


def _mark_first_token(attempts: tuple[AttemptRecord, ...], at: float | None) -> tuple[AttemptRecord, ...]:
    """The first token came in the first attempt that had not ended by then; its gateway's clock may be ahead."""
    if at is None or not attempts or any(one.first_token is not None for one in attempts):
        return attempts
    index = next((i for i, one in enumerate(attempts) if one.end is None or at <= one.end), len(attempts) - 1)
    one = attempts[index]
    marked = replace(one, first_token=at if one.end is None else min(at, one.end))
    return (*attempts[:index], marked, *attempts[index + 1 :])
