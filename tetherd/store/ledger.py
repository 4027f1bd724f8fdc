"""The ledger in a database: the rules of jobs.py, kept in the jobs table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import outcome

from p2p.errors import FIELD_INVALID, LEDGER_UNAVAILABLE, TetherError
from p2p.messages import JobEnd
from tetherd.quotas.account import Account
from tetherd.store import jobs
from tetherd.store.batcher import Batcher
from tetherd.store.database import Database, Script, Statement
from tetherd.store.job_rows import Change, Metered, change, select
from tetherd.store.merge import merged
from tetherd.store.metered import Overtaken, metered, read_accounts
from tetherd.store.protocol import AttemptRecord, Bill, JobRecord, Terms, UsageRow
from tetherd.store.register import SqlRegister
from tetherd.store.reports import Reports
from tetherd.store.usage import read_usage, write_usage

MAX_JOBS: Final = 100_000
"""Some 100 MB, and what one sweep can count in a millisecond."""
SWEEP_AT_ONCE: Final = 1_000
"""Jobs that a sweep ends; the next one is seconds away."""
OVERTAKEN: Final = 8
"""How often a batch is tried anew; leaders meet at one job when they were asked for it both."""


class SqlStore:
    """Implements `Store`. A sweep leaves at most max_jobs rows, unless more are running; None: any number.

    replica: the URL of a streaming replica that reports are read from, or empty.
    """

    def __init__(self, database: Database, *, max_jobs: int | None = MAX_JOBS, replica: str = "") -> None:
        self.database: Final = database
        self.shared: Final = database.dialect == "postgresql"
        self.register: Final = SqlRegister(database)
        self.now = database.now
        self._max_jobs = max_jobs
        self._plain = Batcher(self._carry_out)
        self._metered = Batcher(self._carry_out_metered)
        self.reports: Final = Reports(database, replica)
        self._usage_since = 0.0
        self._seen: dict[str, Account] = {}

    async def claim(
        self, wanted: JobRecord, attempt: AttemptRecord, *, now: float, terms: Sequence[Terms] = ()
    ) -> JobRecord:
        _check_text(wanted)

        def rule(stored: JobRecord | None) -> tuple[JobRecord, JobRecord]:
            row = jobs.claim(stored, wanted, attempt, now)
            return row, row

        change = Change(wanted.job, rule, wanted.attempt == 0, tuple(terms), now)
        row: JobRecord = await (self._metered.carry_out(change) if terms else self._change(change))
        return row

    async def withdraw(self, job: bytes, attempt: int, cause: str, *, now: float) -> bool:
        change = Change(job, lambda stored: _told(jobs.withdraw(stored, attempt, cause, now)))
        return bool(await self._change(change))

    async def renew(self, job: bytes, attempt: int, grant_id: bytes, *, lease_until: float) -> bool:
        change = Change(job, lambda stored: _told(jobs.renew(stored, attempt, grant_id, lease_until)))
        return bool(await self._change(change))

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
        def rule(stored: JobRecord | None) -> tuple[JobRecord | None, bool]:
            if stored is None:
                return None, False
            return jobs.settle(stored, attempt, end, bill, first_token, cause, now)

        one = Change(job, rule)  # where books are kept, most jobs that end are in them: one trip less
        return bool(await (self._metered.carry_out(one) if self._seen else self._change(one)))

    async def adopt(self, row: JobRecord) -> bool:
        _check_text(row)
        change = Change(row.job, lambda stored: _told(row if stored is None else None), True, copied=True)
        return bool(await self._change(change))

    async def take(self, rows: Sequence[JobRecord]) -> None:
        def joined(row: JobRecord) -> Change:
            return Change(row.job, lambda stored: (merged(stored, row), None), copied=True)

        for row in rows:
            _check_text(row)
        for result in await self._plain.carry_out_all([joined(row) for row in rows]):
            result.unwrap()

    async def touched(self, since: float, after: bytes, limit: int) -> Sequence[JobRecord]:
        where = "WHERE job > ? AND (lease_until >= ? OR ended >= ?) ORDER BY job LIMIT ?"
        return await self._select(where, after, since, since - jobs.LEASE_S, limit)

    async def sweep(self, *, now: float) -> Sequence[JobRecord]:
        def rule(stored: JobRecord | None) -> tuple[JobRecord | None, JobRecord | None]:
            row = jobs.swept(stored, now) if stored is not None and jobs.overdue(stored, now) else None
            return row, row

        late = "WHERE state = 'running' AND deadline <= ? AND lease_until <= ? ORDER BY deadline LIMIT ?"
        found = await self._select(late, now, now, SWEEP_AT_ONCE)
        over = await self._change_all([Change(row.job, rule) for row in found])
        await self._release(now)
        self._usage_since = await self.database.transact(lambda: write_usage(self._usage_since, now))
        await self.database.transact(lambda: self._forget(now))
        return [row for row in over if row is not None]

    async def get(self, job: bytes) -> JobRecord | None:
        return next(iter(await self._select("WHERE job = ?", job)), None)

    async def find(self, prefix: str) -> Sequence[JobRecord]:
        if (span := jobs.span_of(prefix)) is None:
            return []
        where = "WHERE job BETWEEN ? AND ? ORDER BY job LIMIT 10"
        return await self.reports.each(lambda: select(where, *span))

    async def recent(self, limit: int = 50) -> Sequence[JobRecord]:
        return await self.reports.each(lambda: select("ORDER BY created DESC, job LIMIT ?", limit))

    async def accounts(self, subjects: Sequence[str]) -> Sequence[Account]:
        return await self.database.each(lambda: read_accounts(subjects))

    def seen(self, subjects: Sequence[str]) -> Sequence[Account]:
        return [self._seen[name] for name in subjects if name in self._seen]

    async def usage_rows(
        self, since: float, until: float, *, after: bytes = b"", limit: int = 1_000
    ) -> Sequence[UsageRow]:
        return await self.reports.each(lambda: read_usage(since, until, after, limit))

    async def close(self) -> None:
        await self.reports.close()
        await self.database.close()

    async def _release(self, now: float) -> None:
        """Give back what ended jobs held for receipts that did not come."""

        def rule(stored: JobRecord | None) -> tuple[JobRecord | None, None]:
            return jobs.release(stored, now), None

        found = await self._select("WHERE held_until <= ? ORDER BY held_until LIMIT ?", now, SWEEP_AT_ONCE)
        await self._change_all([Change(row.job, rule) for row in found])

    async def _change(self, change: Change) -> Any:
        try:
            return await self._plain.carry_out(change)
        except Metered:
            return await self._metered.carry_out(change)

    async def _change_all(self, changes: Sequence[Change]) -> list[Any]:
        results = await self._plain.carry_out_all(changes)
        books = [
            change
            for change, result in zip(changes, results, strict=True)
            if isinstance(result, outcome.Error) and isinstance(result.error, Metered)
        ]
        booked = iter(await self._metered.carry_out_all(books))
        return [
            next(booked).unwrap()
            if isinstance(result, outcome.Error) and isinstance(result.error, Metered)
            else result.unwrap()
            for result in results
        ]

    async def _carry_out(self, changes: Sequence[Change]) -> list[outcome.Outcome[Any]]:
        return await self.database.each(lambda: change(changes))

    async def _carry_out_metered(self, changes: Sequence[Change]) -> list[outcome.Outcome[Any]]:
        """Raises TetherError(LEDGER_UNAVAILABLE) when other leaders change the same jobs again and again."""
        for _ in range(OVERTAKEN):
            try:
                outcomes, books = await self.database.transact(
                    lambda: metered(changes, self.database.dialect)
                )
            except Overtaken:
                continue
            self._seen |= books
            return outcomes
        detail = "Other orchestrators change the same jobs."
        raise TetherError(LEDGER_UNAVAILABLE, detail, retry_after_s=1.0)

    async def _select(self, where: str, *values: Any) -> list[JobRecord]:
        return await self.database.each(lambda: select(where, *values))

    def _forget(self, now: float) -> Script[None]:
        yield Statement("DELETE FROM jobs WHERE ended < ?", (now - jobs.KEEP_ENDED_S,))
        if self._max_jobs is None:
            return
        ((count,),) = yield Statement("SELECT count(*) FROM jobs")
        if count > self._max_jobs:
            oldest = "SELECT job FROM jobs WHERE ended IS NOT NULL ORDER BY ended, job LIMIT ?"
            yield Statement(f"DELETE FROM jobs WHERE job IN ({oldest})", (count - self._max_jobs,))


def _told(row: JobRecord | None) -> tuple[JobRecord | None, bool]:
    return row, row is not None


def _check_text(row: JobRecord) -> None:
    """PostgreSQL stores no NUL in a text, and one row must not fail those that are written with it."""
    texts = (
        row.tenant,
        row.retry_token,
        row.model,
        row.cause,
        row.trace_id,
        row.digest,
        row.gateway,
        row.owner,
        row.key_id,
    )
    if any("\0" in text for text in texts):
        raise TetherError(FIELD_INVALID, "A text of this job holds a NUL character.")
