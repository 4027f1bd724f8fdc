"""One commit for all who wait for one: a disk flush costs milliseconds, however many changes it makes durable.

All that are queued (together.py) are one transaction, in a thread, each in a savepoint of its own, so that a refusal
undoes nothing but itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import outcome
import trio

from p2p.errors import LEDGER_UNAVAILABLE, TetherError
from tetherd.store.together import Together

_Result = TypeVar("_Result")
AT_ONCE: Final = 1_024
"""Changes a transaction: beyond that the flush is a small part of it, and those who wait wait for nothing."""
RETRY_AFTER_S: Final = 5.0
"""Whoever frees a full disk needs longer, but a client may ask again."""


Apply = Callable[[sqlite3.Connection], Any]


class GroupCommit:
    """Owns a connection in autocommit mode that may be used from any thread, one at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._thread = trio.CapacityLimiter(1)
        self._together = Together(self._commit, AT_ONCE)

    async def carry_out(self, apply: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run a change, and return what it returns once that is on the disk. Raises what it raises.

        Raises TetherError(LEDGER_UNAVAILABLE) when SQLite fails (a full disk, a broken one): nothing has changed
        then. Cancelled while the commit is under way, it is not undone.
        """
        result: _Result = await self._together.carry_out(apply)
        return result

    async def close(self) -> None:
        """Waits for what is under way."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._connection.close, limiter=self._thread)

    async def _commit(self, batch: Sequence[Apply]) -> Sequence[outcome.Outcome[Any]]:
        return await trio.to_thread.run_sync(self._transact, batch, limiter=self._thread)

    def _transact(self, batch: Sequence[Apply]) -> list[outcome.Outcome[Any]]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_in_savepoint(connection, apply) for apply in batch]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            detail = f"The ledger cannot be written: {error}."
            return [
                outcome.Error(TetherError(LEDGER_UNAVAILABLE, detail, retry_after_s=RETRY_AFTER_S))
                for _ in batch
            ]
        return outcomes


def _in_savepoint(connection: sqlite3.Connection, apply: Apply) -> outcome.Outcome[Any]:
    """Raises sqlite3.Error: what SQLite cannot do for one change, it cannot do for the others."""
    connection.execute("SAVEPOINT change")
    result = outcome.capture(apply, connection)
    if isinstance(result, outcome.Error):
        if isinstance(result.error, sqlite3.Error):
            raise result.error
        connection.execute("ROLLBACK TO change")
    connection.execute("RELEASE change")
    return result
