"""The ledger in memory: for tests, and for those who want nothing kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import Final

import trio

from p2p.messages import JobEnd
from tetherd.quotas.account import Account
from tetherd.store import jobs
from tetherd.store.job_rows import Change
from tetherd.store.merge import merged
from tetherd.store.metered import booked
from tetherd.store.protocol import AttemptRecord, Bill, JobRecord, Terms, UsageRow
from tetherd.store.register import MemoryRegister
from tetherd.store.usage import FINAL_S, KEEP_USAGE_S, usage_of

MAX_JOBS: Final = 10_000
"""Some 20 MB."""


class MemoryStore:
    """A dictionary with the rules of jobs.py. A sweep leaves at most max_jobs rows, unless more are running."""

    shared: Final = False

    def __init__(self, *, max_jobs: int = MAX_JOBS) -> None:
        self.register: Final = MemoryRegister()
        self._rows: dict[bytes, JobRecord] = {}
        self._max_jobs = max_jobs
        self._accounts: dict[str, Account] = {}
        self._usage: dict[bytes, UsageRow] = {}

    def now(self) -> float:
        return time.time()

    async def claim(
        self, wanted: JobRecord, attempt: AttemptRecord, *, now: float, terms: Sequence[Terms] = ()
    ) -> JobRecord:
        await trio.lowlevel.checkpoint()
        row = jobs.claim(self._rows.get(wanted.job), wanted, attempt, now)
        for one in terms:
            self._accounts.setdefault(one.subject, Account(one.subject))
        self._put(row, Change(row.job, lambda _: (row, row), terms=tuple(terms), now=now))
        return row

    async def withdraw(self, job: bytes, attempt: int, cause: str, *, now: float) -> bool:
        await trio.lowlevel.checkpoint()
        return self._put(jobs.withdraw(self._rows.get(job), attempt, cause, now))

    async def renew(self, job: bytes, attempt: int, grant_id: bytes, *, lease_until: float) -> bool:
        await trio.lowlevel.checkpoint()
        return self._put(jobs.renew(self._rows.get(job), attempt, grant_id, lease_until))

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
        await trio.lowlevel.checkpoint()
        stored = self._rows.get(job)
        if stored is None:
            return False
        row, ended = jobs.settle(stored, attempt, end, bill, first_token, cause, now)
        self._put(row)
        return ended

    async def adopt(self, row: JobRecord) -> bool:
        await trio.lowlevel.checkpoint()
        return self._rows.setdefault(row.job, row) is row

    async def take(self, rows: Sequence[JobRecord]) -> None:
        await trio.lowlevel.checkpoint()
        self._rows.update({row.job: merged(self._rows.get(row.job), row) for row in rows})

    async def touched(self, since: float, after: bytes, limit: int) -> Sequence[JobRecord]:
        await trio.lowlevel.checkpoint()
        later = [row for job, row in self._rows.items() if job > after and jobs.last_touch(row) >= since]
        return sorted(later, key=lambda row: row.job)[:limit]

    async def sweep(self, *, now: float) -> Sequence[JobRecord]:
        await trio.lowlevel.checkpoint()
        over = [jobs.swept(row, now) for row in self._rows.values() if jobs.overdue(row, now)]
        for row in over:
            self._put(row)
        for stored in list(self._rows.values()):
            self._put(jobs.release(stored, now))
        for row in self._rows.values():
            if row.ended is not None and row.ended <= now - FINAL_S:
                self._usage.setdefault(row.job, usage_of(row))
        self._forget(now)
        return over

    async def get(self, job: bytes) -> JobRecord | None:
        await trio.lowlevel.checkpoint()
        return self._rows.get(job)

    async def find(self, prefix: str) -> Sequence[JobRecord]:
        await trio.lowlevel.checkpoint()
        found = [row for job, row in self._rows.items() if job.hex().startswith(prefix)]
        return sorted(found, key=lambda row: row.job)[:10]

    async def recent(self, limit: int = 50) -> Sequence[JobRecord]:
        await trio.lowlevel.checkpoint()
        return sorted(self._rows.values(), key=lambda row: (-row.created, row.job))[:limit]

    async def accounts(self, subjects: Sequence[str]) -> Sequence[Account]:
        await trio.lowlevel.checkpoint()
        return [self._accounts[name] for name in sorted({*subjects} & self._accounts.keys())]

    def seen(self, subjects: Sequence[str]) -> Sequence[Account]:
        return [self._accounts[name] for name in subjects if name in self._accounts]

    async def usage_rows(
        self, since: float, until: float, *, after: bytes = b"", limit: int = 1_000
    ) -> Sequence[UsageRow]:
        await trio.lowlevel.checkpoint()
        found = sorted(self._usage.values(), key=lambda row: (row.ended, row.job))
        later = (row for row in found if since <= row.ended < until and (row.ended, row.job) > (since, after))
        return list(islice(later, limit))

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    def _put(self, row: JobRecord | None, change: Change | None = None) -> bool:
        if row is not None:
            change = change or Change(row.job, lambda _: (row, row))
            self._accounts |= booked(self._accounts, change, self._rows.get(row.job), row)
            self._rows[row.job] = row
        return row is not None

    def _forget(self, now: float) -> None:
        ended = [(row.ended, row.job) for row in self._rows.values() if row.ended is not None]
        surplus = len(self._rows) - self._max_jobs
        for rank, (at, job) in enumerate(sorted(ended)):
            if rank < surplus or at < now - jobs.KEEP_ENDED_S:
                del self._rows[job]
        for row in [row for row in self._usage.values() if row.ended < now - KEEP_USAGE_S]:
            del self._usage[row.job]
