"""Changes that wait for the ledger go together: a round trip and a flush cost the same for one as for many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import outcome

from tetherd.store.job_rows import Change
from tetherd.store.together import Together

MAX_BATCH: Final = 128
"""Rows a statement: 3,456 values, well under both databases' 32,766."""
Apply = Callable[[Sequence[Change]], Awaitable[list[outcome.Outcome[Any]]]]


class Batcher:
    """Changes of jobs, by whoever wants them. apply: carries out up to MAX_BATCH of them."""

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self._together = Together(self._commit, MAX_BATCH)

    async def carry_out(self, change: Change) -> Any:
        """Apply a change, and return what its rule answers once that is durable. Raises what the rule raises,
        and TetherError(LEDGER_UNAVAILABLE). Cancelled while the batch is under way, it is not undone.
        """
        return await self._together.carry_out(change)

    async def carry_out_all(self, changes: Sequence[Change]) -> list[outcome.Outcome[Any]]:
        """Apply changes of one caller, in order, and say what came of each. Raises LEDGER_UNAVAILABLE."""
        parts = [changes[start : start + MAX_BATCH] for start in range(0, len(changes), MAX_BATCH)]
        return [one for part in parts for one in await self._apply(part)]

    async def _commit(self, changes: Sequence[Change]) -> Sequence[outcome.Outcome[Any]]:
        whole = await outcome.acapture(self._apply, changes)
        if isinstance(whole, outcome.Error):
            return [outcome.Error(whole.error) for _ in changes]  # each can be raised once
        return whole.unwrap()
