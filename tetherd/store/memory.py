"""The ledger in memory: for tests, and for those who want nothing kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from p2p.messages import JobEnd
from tetherd.store import jobs
from tetherd.store.protocol import AttemptRecord, JobRecord

MAX_JOBS: Final = 10_000
"""The oldest ended ones go first."""


class MemoryStore:
    """A dictionary with the rules of jobs.py."""

    def __init__(self) -> None:
        self._rows: dict[bytes, JobRecord] = {}

    async def claim(self, wanted: JobRecord, attempt: AttemptRecord, *, now: float) -> JobRecord:
        await trio.lowlevel.checkpoint()
        row = jobs.claim(self._rows.get(wanted.job), wanted, attempt, now)
        self._rows[row.job] = row
        self._make_room()
        return row

    async def renew(self, job: bytes, attempt: int, grant_id: bytes, *, lease_until: float) -> bool:
        await trio.lowlevel.checkpoint()
        row = jobs.renew(self._rows.get(job), attempt, grant_id, lease_until)
        if row is not None:
            self._rows[job] = row
        return row is not None

    async def settle(
        self,
        job: bytes,
        attempt: int,
        end: JobEnd,
        *,
        prompt_tokens: int,
        tokens: int,
        first_token: float | None,
        cause: str,
        now: float,
    ) -> bool:
        await trio.lowlevel.checkpoint()
        stored = self._rows.get(job)
        if stored is None:
            return False
        self._rows[job], ended = jobs.settle(
            stored,
            attempt,
            end,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            first_token=first_token,
            cause=cause,
            now=now,
        )
        return ended

    async def sweep(self, *, now: float) -> Sequence[JobRecord]:
        await trio.lowlevel.checkpoint()
        dead = [jobs.dead_letter(row, now) for row in self._rows.values() if jobs.overdue(row, now)]
        self._rows.update({row.job: row for row in dead})
        return dead

    async def get(self, job: bytes) -> JobRecord | None:
        await trio.lowlevel.checkpoint()
        return self._rows.get(job)

    async def find(self, prefix: str) -> Sequence[JobRecord]:
        await trio.lowlevel.checkpoint()
        return [row for job, row in self._rows.items() if job.hex().startswith(prefix)][:10]

    async def recent(self, limit: int = 50) -> Sequence[JobRecord]:
        await trio.lowlevel.checkpoint()
        return sorted(self._rows.values(), key=lambda row: row.created, reverse=True)[:limit]

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    def _make_room(self) -> None:
        if len(self._rows) > MAX_JOBS:
            oldest = next((job for job, row in self._rows.items() if row.state != "running"), None)
            if oldest is not None:
                del self._rows[oldest]
