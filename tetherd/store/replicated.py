"""A ledger whose rows other candidates keep, too: what one leader accepted, the next one knows.

Accepted means: committed here and acknowledged by one other live candidate. Alone, or when nobody acknowledges in time,
the leader accepts all the same and is `degraded`: a claim's last word is its own disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from p2p.messages import JobEnd
from tetherd.store.protocol import AttemptRecord, Bill, JobRecord, Store, Terms


class Copies(Protocol):
    """Who brings rows to the others."""

    async def caught_up(self) -> None:
        """Wait until what others accepted while this node was away is here, but not for long."""
        ...

    async def spread(self, job: bytes, row: JobRecord | None = None) -> None:
        """Send the job's row, this one if it is at hand, and wait for one acknowledgement, but not for long."""
        ...

    def note(self, job: bytes) -> None:
        """Send the job's row soon."""
        ...


class ReplicatedStore:
    """Implements `Store` over another one. Reads are the other one's own."""

    def __init__(self, inner: Store, copies: Copies) -> None:
        self._inner = inner
        self._copies = copies
        self.shared = inner.shared
        self.register = inner.register
        self.now = inner.now
        self.take = inner.take
        self.touched = inner.touched
        self.get = inner.get
        self.find = inner.find
        self.recent = inner.recent
        self.accounts = inner.accounts
        self.seen = inner.seen
        self.usage_rows = inner.usage_rows
        self.close = inner.close

    async def claim(
        self, wanted: JobRecord, attempt: AttemptRecord, *, now: float, terms: Sequence[Terms] = ()
    ) -> JobRecord:
        await self._copies.caught_up()
        row = await self._inner.claim(wanted, attempt, now=now, terms=terms)
        await self._copies.spread(row.job, row)
        return row

    async def withdraw(self, job: bytes, attempt: int, cause: str, *, now: float) -> bool:
        changed = await self._inner.withdraw(job, attempt, cause, now=now)
        return self._noted(job, changed)

    async def renew(self, job: bytes, attempt: int, grant_id: bytes, *, lease_until: float) -> bool:
        changed = await self._inner.renew(job, attempt, grant_id, lease_until=lease_until)
        return self._noted(job, changed)

    async def settle(
        self,
        job: bytes,
        attempt: int,
        end: JobEnd,
        bill: Bill,
        *,
        first_token: float | None,
        cause: str,
        now: float,
    ) -> bool:
        ended = await self._inner.settle(
            job, attempt, end, bill, first_token=first_token, cause=cause, now=now
        )
        await self._copies.spread(job)
        return ended

    async def adopt(self, row: JobRecord) -> bool:
        adopted = await self._inner.adopt(row)
        await self._copies.spread(row.job, row)
        return adopted

    async def sweep(self, *, now: float) -> Sequence[JobRecord]:
        over = await self._inner.sweep(now=now)
        for row in over:
            self._copies.note(row.job)
        return over

    def _noted(self, job: bytes, changed: bool) -> bool:
        if changed:
            self._copies.note(job)
        return changed
