"""The ledger in SQLite: durable before it answers, one commit for all who wait (WAL, synchronous=FULL).

One connection, used by one thread at a time. Callers queue their change; whoever gets the turn carries out all that
are queued in one transaction, each in a savepoint of its own, so that a refusal undoes nothing but itself.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec
import trio
from outcome import Error, Outcome, Value

from p2p.errors import DATA_DIR_INVALID, TetherError
from p2p.messages import JobEnd
from tetherd.store import jobs
from tetherd.store.protocol import AttemptRecord, JobRecord

BUSY_TIMEOUT_S: Final = 5.0
KEEP_ENDED_S: Final = 7 * 86_400.0
"""Ended jobs are for `why`; a week is longer than anybody asks."""

_COLUMNS: Final = tuple(item.name for item in fields(JobRecord))
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM jobs"
_UPSERT: Final = (
    f"INSERT OR REPLACE INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
)

_Result = TypeVar("_Result")


@dataclass(eq=False)
class _Change(Generic[_Result]):
    """One queued change and, once it is committed, what came of it."""

    apply: Callable[[sqlite3.Connection], _Result]
    outcome: Outcome[_Result] | None = field(default=None)


class SqliteStore:
    """The jobs table of one node. Raises TetherError(DATA_DIR_INVALID) when the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._turn = trio.Lock()
        self._queue: list[_Change[Any]] = []
        try:
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            migrate(self._connection)
        except (OSError, sqlite3.Error) as error:
            raise TetherError(DATA_DIR_INVALID, f"The ledger {path} cannot be used: {error}.") from error

    async def claim(self, wanted: JobRecord, attempt: AttemptRecord, *, now: float) -> JobRecord:
        def apply(connection: sqlite3.Connection) -> JobRecord:
            row = jobs.claim(_load(connection, wanted.job), wanted, attempt, now)
            _save(connection, row)
            return row

        return await self._commit(apply)

    async def renew(self, job: bytes, attempt: int, grant_id: bytes, *, lease_until: float) -> bool:
        def apply(connection: sqlite3.Connection) -> bool:
            row = jobs.renew(_load(connection, job), attempt, grant_id, lease_until)
            if row is not None:
                _save(connection, row)
            return row is not None

        return await self._commit(apply)

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
        def apply(connection: sqlite3.Connection) -> bool:
            stored = _load(connection, job)
            if stored is None:
                return False
            row, ended = jobs.settle(
                stored,
                attempt,
                end,
                prompt_tokens=prompt_tokens,
                tokens=tokens,
                first_token=first_token,
                cause=cause,
                now=now,
            )
            _save(connection, row)
            return ended

        return await self._commit(apply)

    async def sweep(self, *, now: float) -> Sequence[JobRecord]:
        def apply(connection: sqlite3.Connection) -> Sequence[JobRecord]:
            late = _rows(
                connection, "WHERE state = 'running' AND deadline <= ? AND lease_until <= ?", now, now
            )
            dead = [jobs.dead_letter(row, now) for row in late]
            for row in dead:
                _save(connection, row)
            connection.execute(
                "DELETE FROM jobs WHERE state <> 'running' AND created < ?", (now - KEEP_ENDED_S,)
            )
            return dead

        return await self._commit(apply)

    async def get(self, job: bytes) -> JobRecord | None:
        return await self._commit(lambda connection: _load(connection, job))

    async def find(self, prefix: str) -> Sequence[JobRecord]:
        where = "WHERE substr(lower(hex(job)), 1, ?) = ? ORDER BY created DESC LIMIT 10"
        return await self._commit(lambda connection: _rows(connection, where, len(prefix), prefix))

    async def recent(self, limit: int = 50) -> Sequence[JobRecord]:
        return await self._commit(
            lambda connection: _rows(connection, "ORDER BY created DESC LIMIT ?", limit)
        )

    async def close(self) -> None:
        async with self._turn:
            await trio.to_thread.run_sync(self._connection.close)

    async def _commit(self, apply: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Carry out a change with all others that wait, and return once it is on the disk."""
        change = _Change(apply)
        self._queue.append(change)
        try:
            async with self._turn:
                if change.outcome is None:
                    batch, self._queue = self._queue, []
                    await trio.to_thread.run_sync(self._carry_out, batch)
        except trio.Cancelled:
            if change in self._queue:
                self._queue.remove(change)
            raise
        assert change.outcome is not None
        return change.outcome.unwrap()

    def _carry_out(self, batch: Sequence[_Change[Any]]) -> None:
        connection = self._connection
        outcomes: list[Outcome[Any]] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for change in batch:
                connection.execute("SAVEPOINT one")
                try:
                    outcomes.append(Value(change.apply(connection)))
                except TetherError as refusal:
                    connection.execute("ROLLBACK TO one")
                    outcomes.append(Error(refusal))
                connection.execute("RELEASE one")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        for change, outcome in zip(batch, outcomes, strict=True):
            change.outcome = outcome


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date. Raises TetherError(DATA_DIR_INVALID) if an applied migration was altered since."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, checksum TEXT NOT NULL)"
    )
    applied = dict(connection.execute("SELECT name, checksum FROM migrations"))
    folder = resources.files("tetherd.store") / "migrations"
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        if not file.name.endswith(".sql"):
            continue
        script = file.read_text("utf-8")
        checksum = hashlib.sha256(script.encode()).hexdigest()
        known = applied.get(file.name)
        if known is None:
            record = f"INSERT INTO migrations VALUES ('{file.name}', '{checksum}')"
            connection.executescript(f"BEGIN;\n{script}\n{record};\nCOMMIT;")
        elif known != checksum:
            raise TetherError(
                DATA_DIR_INVALID, f"The ledger was made by another version: {file.name} differs."
            )


def _load(connection: sqlite3.Connection, job: bytes) -> JobRecord | None:
    return next(iter(_rows(connection, "WHERE job = ?", job)), None)


def _rows(connection: sqlite3.Connection, where: str, *values: Any) -> list[JobRecord]:
    return [_record(row) for row in connection.execute(f"{_SELECT} {where}", values)]


def _record(row: tuple[Any, ...]) -> JobRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    attempts = msgspec.json.decode(values.pop("attempts"), type=tuple[AttemptRecord, ...])
    return JobRecord(**values, attempts=attempts)


def _save(connection: sqlite3.Connection, row: JobRecord) -> None:
    values = [getattr(row, name) for name in _COLUMNS[:-1]]
    connection.execute(_UPSERT, (*values, msgspec.json.encode(row.attempts).decode()))
