"""The ledger in SQLite: durable before it answers (WAL, synchronous=FULL), one commit for all who wait."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import msgspec

from p2p.errors import DATA_DIR_INVALID, TetherError
from p2p.messages import JobEnd
from tetherd.store import jobs
from tetherd.store.group_commit import GroupCommit
from tetherd.store.merge import merged
from tetherd.store.migrate import migrate
from tetherd.store.protocol import AttemptRecord, Bill, JobRecord

BUSY_TIMEOUT_S: Final = 5.0
MAX_JOBS: Final = 100_000
"""Some 100 MB, and what one sweep can count in a millisecond."""

_COLUMNS: Final = tuple(item.name for item in fields(JobRecord))
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM jobs"
_UPSERT: Final = (
    f"INSERT OR REPLACE INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
)


class SqliteStore:
    """The jobs table of one node. A sweep leaves at most max_jobs rows, unless more are running.

    Raises TetherError(DATA_DIR_INVALID) when the file cannot be used.
    """

    shared: Final = False

    def __init__(self, path: Path, *, max_jobs: int = MAX_JOBS) -> None:
        self._max_jobs = max_jobs
        self._commits = GroupCommit(_open(path))

    async def claim(self, wanted: JobRecord, attempt: AttemptRecord, *, now: float) -> JobRecord:
        def apply(connection: sqlite3.Connection) -> JobRecord:
            row = jobs.claim(_load(connection, wanted.job), wanted, attempt, now)
            _save(connection, row)
            return row

        return await self._commits.carry_out(apply)

    async def withdraw(self, job: bytes, attempt: int, cause: str, *, now: float) -> bool:
        return await self._commits.carry_out(
            lambda connection: _put(connection, jobs.withdraw(_load(connection, job), attempt, cause, now))
        )

    async def renew(self, job: bytes, attempt: int, grant_id: bytes, *, lease_until: float) -> bool:
        return await self._commits.carry_out(
            lambda connection: _put(
                connection, jobs.renew(_load(connection, job), attempt, grant_id, lease_until)
            )
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
        def apply(connection: sqlite3.Connection) -> bool:
            stored = _load(connection, job)
            if stored is None:
                return False
            row, ended = jobs.settle(stored, attempt, end, bill, first_token, cause, now)
            _save(connection, row)
            return ended

        return await self._commits.carry_out(apply)

    async def adopt(self, row: JobRecord) -> bool:
        return await self._commits.carry_out(
            lambda connection: _load(connection, row.job) is None and _put(connection, row)
        )

    async def take(self, rows: Sequence[JobRecord]) -> None:
        def apply(connection: sqlite3.Connection) -> None:
            for row in rows:
                _save(connection, merged(_load(connection, row.job), row))

        await self._commits.carry_out(apply)

    async def touched(self, since: float, after: bytes, limit: int) -> Sequence[JobRecord]:
        where = "WHERE job > ? AND (lease_until >= ? OR ended >= ?) ORDER BY job LIMIT ?"
        return await self._commits.carry_out(
            lambda connection: _rows(connection, where, after, since, since - jobs.LEASE_S, limit)
        )

    async def sweep(self, *, now: float) -> Sequence[JobRecord]:
        def apply(connection: sqlite3.Connection) -> Sequence[JobRecord]:
            late = "WHERE state = 'running' AND deadline <= ? AND lease_until <= ?"
            over = [jobs.swept(row, now) for row in _rows(connection, late, now, now)]
            for row in over:
                _save(connection, row)
            self._forget(connection, now)
            return over

        return await self._commits.carry_out(apply)

    async def get(self, job: bytes) -> JobRecord | None:
        return await self._commits.carry_out(lambda connection: _load(connection, job))

    async def find(self, prefix: str) -> Sequence[JobRecord]:
        if (span := jobs.span_of(prefix)) is None:
            return []
        where = "WHERE job BETWEEN ? AND ? ORDER BY job LIMIT 10"
        return await self._commits.carry_out(lambda connection: _rows(connection, where, *span))

    async def recent(self, limit: int = 50) -> Sequence[JobRecord]:
        where = "ORDER BY created DESC, job LIMIT ?"
        return await self._commits.carry_out(lambda connection: _rows(connection, where, limit))

    async def close(self) -> None:
        await self._commits.close()

    def _forget(self, connection: sqlite3.Connection, now: float) -> None:
        connection.execute("DELETE FROM jobs WHERE ended < ?", (now - jobs.KEEP_ENDED_S,))
        (count,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
        if count > self._max_jobs:
            oldest = "SELECT job FROM jobs WHERE ended IS NOT NULL ORDER BY ended, job LIMIT ?"
            connection.execute(f"DELETE FROM jobs WHERE job IN ({oldest})", (count - self._max_jobs,))


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
        with ExitStack() as undo:
            connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            undo.callback(connection.close)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            migrate(connection)
            undo.pop_all()
    except (OSError, sqlite3.Error) as error:
        raise TetherError(DATA_DIR_INVALID, f"The ledger {path} cannot be used: {error}.") from error
    return connection


def _load(connection: sqlite3.Connection, job: bytes) -> JobRecord | None:
    return next(iter(_rows(connection, "WHERE job = ?", job)), None)


def _rows(connection: sqlite3.Connection, where: str, *values: Any) -> list[JobRecord]:
    return [_record(row) for row in connection.execute(f"{_SELECT} {where}", values)]


def _record(row: tuple[Any, ...]) -> JobRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    attempts = msgspec.json.decode(values.pop("attempts"), type=tuple[AttemptRecord, ...])
    return JobRecord(**values, attempts=attempts)


def _put(connection: sqlite3.Connection, row: JobRecord | None) -> bool:
    if row is not None:
        _save(connection, row)
    return row is not None


def _save(connection: sqlite3.Connection, row: JobRecord) -> None:
    values = {name: getattr(row, name) for name in _COLUMNS}
    values["attempts"] = msgspec.json.encode(row.attempts).decode()
    connection.execute(_UPSERT, tuple(values.values()))
