"""SQLite: durable before it answers (WAL, synchronous=FULL), one commit for all who wait."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from p2p.errors import DATA_DIR_INVALID, TetherError
from tetherd.store.database import Dialect, Result, Script, SqlRow
from tetherd.store.group_commit import GroupCommit
from tetherd.store.migrate import migrate

BUSY_TIMEOUT_S: Final = 5.0


class SqliteDatabase:
    """Implements `Database` over a file of this node; its schema is brought up to date unless upgrade is False.

    Raises TetherError(DATA_DIR_INVALID) when the file cannot be used.
    """

    dialect: Final[Dialect] = "sqlite"

    def __init__(self, path: Path, *, upgrade: bool = True) -> None:
        self._commits = GroupCommit(_open(path, upgrade))

    async def transact(self, make: Callable[[], Script[Result]]) -> Result:
        return await self._commits.carry_out(lambda connection: _drive(connection, make()))

    async def each(self, make: Callable[[], Script[Result]]) -> Result:
        return await self.transact(make)

    def now(self) -> float:
        return time.time()

    async def close(self) -> None:
        await self._commits.close()


def _open(path: Path, upgrade: bool) -> sqlite3.Connection:
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
            if upgrade:
                _migrate(connection)
            undo.pop_all()
    except (OSError, sqlite3.Error) as error:
        raise TetherError(DATA_DIR_INVALID, f"The ledger {path} cannot be used: {error}.") from error
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # two daemons never share a file, but one may start twice
        _drive(connection, migrate("sqlite"))


def _drive(connection: sqlite3.Connection, script: Script[Result]) -> Result:
    rows: Sequence[SqlRow] = ()
    try:
        statement = next(script)
        while True:
            rows = connection.execute(statement.sql, statement.values).fetchall()
            statement = script.send(rows)
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        script.close()
