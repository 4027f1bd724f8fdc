"""One commit for all who wait for one: a disk flush costs milliseconds, however many changes it makes durable.

Callers queue their change. Whoever gets the turn carries out all that are queued in one transaction, in a thread,
each in a savepoint of its own, so that a refusal undoes nothing but itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import outcome
import trio

from p2p.errors import LEDGER_UNAVAILABLE, TetherError

_Result = TypeVar("_Result")
RETRY_AFTER_S: Final = 5.0
"""Whoever frees a full disk needs longer, but a client may ask again."""


@dataclass(eq=False, slots=True)
class _Change(Generic[_Result]):
    """A queued change and, once it is on the disk or refused, what came of it."""

    apply: Callable[[sqlite3.Connection], _Result]
    outcome: outcome.Outcome[_Result] | None = field(default=None)


class GroupCommit:
    """Owns a connection in autocommit mode that may be used from any thread, one at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._turn = trio.Lock()
        self._thread = trio.CapacityLimiter(1)
        self._queue: list[_Change[Any]] = []

    async def carry_out(self, apply: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run a change, and return what it returns once that is on the disk. Raises what it raises.

        Raises TetherError(LEDGER_UNAVAILABLE) when SQLite fails (a full disk, a broken one): nothing has changed
        then. Cancelled while the commit is under way, it is not undone.
        """
        change = _Change(apply)
        self._queue.append(change)
        try:
            async with self._turn:
                if change.outcome is None:
                    await self._commit()
        finally:
            if change in self._queue:
                self._queue.remove(change)
        assert change.outcome is not None
        return change.outcome.unwrap()

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            async with self._turn:
                await trio.to_thread.run_sync(self._connection.close, limiter=self._thread)

    async def _commit(self) -> None:
        """Carry out what is queued; others' changes are among it, so no cancellation may lose it on the way."""
        batch, self._queue = self._queue, []
        with trio.CancelScope(shield=True):
            outcomes = await trio.to_thread.run_sync(self._transact, batch, limiter=self._thread)
        for change, result in zip(batch, outcomes, strict=True):
            change.outcome = result

    def _transact(self, batch: Sequence[_Change[Any]]) -> list[outcome.Outcome[Any]]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_in_savepoint(connection, change) for change in batch]
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


def _in_savepoint(connection: sqlite3.Connection, change: _Change[_Result]) -> outcome.Outcome[_Result]:
    """Raises sqlite3.Error: what SQLite cannot do for one change, it cannot do for the others."""
    connection.execute("SAVEPOINT change")
    result = outcome.capture(change.apply, connection)
    if isinstance(result, outcome.Error):
        if isinstance(result.error, sqlite3.Error):
            raise result.error
        connection.execute("ROLLBACK TO change")
    connection.execute("RELEASE change")
    return result
