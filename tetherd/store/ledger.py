"""The ledger in a database: the rules of jobs.py, kept in the jobs table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from p2p.errors import FIELD_INVALID, TetherError
from p2p.messages import JobEnd
from tetherd.store import jobs
from tetherd.store.batcher import Batcher
from tetherd.store.database import Database, Script, Statement
from tetherd.store.job_rows import Change, select
from tetherd.store.merge import merged
from tetherd.store.protocol import AttemptRecord, Bill, JobRecord

MAX_JOBS: Final = 100_000
"""Some 100 MB, and what one sweep can count in a millisecond."""
SWEEP_AT_ONCE: Final = 1_000
"""Jobs that a sweep ends; the next one is seconds away."""

_Result = TypeVar("_Result")


class SqlStore:
    """Implements `Store`. A sweep leaves at most max_jobs rows, unless more are running; None: any number."""

    def __init__(self, database: Database, *, max_jobs: int | None = MAX_JOBS) -> None:
        self.database: Final = database
        self.shared: Final = database.dialect == "postgresql"
        self.now = database.now
        self._max_jobs = max_jobs
        self._batcher = Batcher(database)

    async def claim(self, wanted: JobRecord, attempt: AttemptRecord, *, now: float) -> JobRecord:
        _check_text(wanted)

        def rule(stored: JobRecord | None) -> tuple[JobRecord, JobRecord]:
            row = jobs.claim(stored, wanted, attempt, now)
            return row, row

        return await self._change(wanted.job, rule, fresh=wanted.attempt == 0)

    async def withdraw(self, job: bytes, attempt: int, cause: str, *, now: float) -> bool:
        return await self._change(job, lambda stored: _told(jobs.withdraw(stored, attempt, cause, now)))

    async def renew(self, job: bytes, attempt: int, grant_id: bytes, *, lease_until: float) -> bool:
        return await self._change(
            job, lambda stored: _told(jobs.renew(stored, attempt, grant_id, lease_until))
        )

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

        return await self._change(job, rule)

    async def adopt(self, row: JobRecord) -> bool:
        _check_text(row)
        return await self._change(row.job, lambda stored: _told(row if stored is None else None), fresh=True)

    async def take(self, rows: Sequence[JobRecord]) -> None:
        def joined(row: JobRecord) -> Change:
            return Change(row.job, lambda stored: (merged(stored, row), None))

        for row in rows:
            _check_text(row)
        await self._batcher.carry_out_all([joined(row) for row in rows])

    async def touched(self, since: float, after: bytes, limit: int) -> Sequence[JobRecord]:
        where = "WHERE job > ? AND (lease_until >= ? OR ended >= ?) ORDER BY job LIMIT ?"
        return await self._select(where, after, since, since - jobs.LEASE_S, limit)

    async def sweep(self, *, now: float) -> Sequence[JobRecord]:
        def rule(stored: JobRecord | None) -> tuple[JobRecord | None, JobRecord | None]:
            row = jobs.swept(stored, now) if stored is not None and jobs.overdue(stored, now) else None
            return row, row

        late = "WHERE state = 'running' AND deadline <= ? AND lease_until <= ? ORDER BY deadline LIMIT ?"
        found = await self._select(late, now, now, SWEEP_AT_ONCE)
        over = await self._batcher.carry_out_all([Change(row.job, rule) for row in found])
        await self.database.transact(lambda: self._forget(now))
        return [row for row in over if row is not None]

    async def get(self, job: bytes) -> JobRecord | None:
        return next(iter(await self._select("WHERE job = ?", job)), None)

    async def find(self, prefix: str) -> Sequence[JobRecord]:
        if (span := jobs.span_of(prefix)) is None:
            return []
        return await self._select("WHERE job BETWEEN ? AND ? ORDER BY job LIMIT 10", *span)

    async def recent(self, limit: int = 50) -> Sequence[JobRecord]:
        return await self._select("ORDER BY created DESC, job LIMIT ?", limit)

    async def close(self) -> None:
        await self.database.close()

    async def _change(
        self,
        job: bytes,
        rule: Callable[[JobRecord | None], tuple[JobRecord | None, _Result]],
        *,
        fresh: bool = False,
    ) -> _Result:
        answer: _Result = await self._batcher.carry_out(Change(job, rule, fresh))
        return answer

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
    )
    if any("\0" in text for text in texts):
        raise TetherError(FIELD_INVALID, "A text of this job holds a NUL character.")
