"""Changes that wait for the ledger go together: a round trip and a flush cost the same for one as for many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import outcome
import trio

from tetherd.store.database import Database
from tetherd.store.job_rows import Change, change

MAX_BATCH: Final = 128
"""Rows a statement: 2,944 values, well under both databases' 32,766."""


@dataclass(eq=False, slots=True)
class _Waiting:
    change: Change
    outcome: outcome.Outcome[Any] | None = field(default=None)


class Batcher:
    """Whoever gets the turn carries out what is queued."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = trio.Lock()
        self._queue: list[_Waiting] = []

    async def carry_out(self, change: Change) -> Any:
        """Apply a change, and return what its rule answers once that is durable. Raises what the rule raises,
        and TetherError(LEDGER_UNAVAILABLE). Cancelled while the batch is under way, it is not undone.
        """
        waiting = _Waiting(change)
        self._queue.append(waiting)
        try:
            async with self._turn:
                while waiting.outcome is None:
                    await self._commit()
        finally:
            if waiting in self._queue:
                self._queue.remove(waiting)
        return waiting.outcome.unwrap()

    async def carry_out_all(self, changes: Sequence[Change]) -> list[Any]:
        """Apply changes of one caller, in order."""
        results = [
            await self._database.each(lambda part=part: change(part))  # type: ignore[misc]
            for part in _parts(changes)
        ]
        return [one.unwrap() for part in results for one in part]

    async def _commit(self) -> None:
        """Others' changes are among those queued, so no cancellation may lose them on the way."""
        batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
        changes = [one.change for one in batch]
        with trio.CancelScope(shield=True):
            whole = await outcome.acapture(self._database.each, lambda: change(changes))
        outcomes = [whole] * len(batch) if isinstance(whole, outcome.Error) else whole.unwrap()
        for one, result in zip(batch, outcomes, strict=True):
            one.outcome = result


def _parts(changes: Sequence[Change]) -> list[Sequence[Change]]:
    return [changes[start : start + MAX_BATCH] for start in range(0, len(changes), MAX_BATCH)]
