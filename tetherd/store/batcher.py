"""Changes that wait for the ledger go together: a round trip and a flush cost the same for one as for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import outcome

from tetherd.store.database import Database
from tetherd.store.job_rows import Change, change
from tetherd.store.together import Together

MAX_BATCH: Final = 128
"""Rows a statement: 2,944 values, well under both databases' 32,766."""


class Batcher:
    """Changes of jobs, by whoever wants them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._together = Together(self._commit, MAX_BATCH)

    async def carry_out(self, change: Change) -> Any:
        """Apply a change, and return what its rule answers once that is durable. Raises what the rule raises,
        and TetherError(LEDGER_UNAVAILABLE). Cancelled while the batch is under way, it is not undone.
        """
        return await self._together.carry_out(change)

    async def carry_out_all(self, changes: Sequence[Change]) -> list[Any]:
        """Apply changes of one caller, in order."""
        results = [
            await self._database.each(lambda part=part: change(part))  # type: ignore[misc]
            for part in _parts(changes)
        ]
        return [one.unwrap() for part in results for one in part]

    async def _commit(self, changes: Sequence[Change]) -> Sequence[outcome.Outcome[Any]]:
        whole = await outcome.acapture(self._database.each, lambda: change(changes))
        if isinstance(whole, outcome.Error):
            return [outcome.Error(whole.error) for _ in changes]  # each can be raised once
        return whole.unwrap()


def _parts(changes: Sequence[Change]) -> list[Sequence[Change]]:
    return [changes[start : start + MAX_BATCH] for start in range(0, len(changes), MAX_BATCH)]
