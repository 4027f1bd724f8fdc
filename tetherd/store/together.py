"""One trip for all who wait for one: a flush or a round trip costs the same for one change as for many.

Whoever finds nothing under way goes at once. Who comes meanwhile queues, and the oldest of them is next, with all who
are queued by then. So nothing is idle between two trips, and a caller costs the same however many wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

import outcome
import trio

_Item = TypeVar("_Item")
_Outcomes = Sequence[outcome.Outcome[Any]]


@dataclass(eq=False, slots=True)
class _Waiting(Generic[_Item]):
    """woken: it has its outcome, or it is its turn to go."""

    item: _Item
    outcome: outcome.Outcome[Any] | None = None
    woken: trio.Event = field(default_factory=trio.Event)

    def result(self) -> Any:
        assert self.outcome is not None
        return self.outcome.unwrap()


class Together(Generic[_Item]):
    """go: carries out some items in their order and says what came of each; at_once: how many at most."""

    def __init__(self, go: Callable[[Sequence[_Item]], Awaitable[_Outcomes]], at_once: int) -> None:
        self._go = go
        self._at_once = at_once
        self._queue: OrderedDict[_Waiting[_Item], None] = OrderedDict()
        self._under_way = False

    async def carry_out(self, item: _Item) -> Any:
        """What came of the item. Cancelled while it is on its way, it is not undone."""
        waiting = _Waiting(item)
        self._queue[waiting] = None
        if not self._under_way:
            self._under_way = True
            await self._go_with_all()
            return waiting.result()
        try:
            await waiting.woken.wait()
        except trio.Cancelled:
            if waiting.outcome is None and self._queue.pop(waiting, True) is None and waiting.woken.is_set():
                self._pass_on()
            raise
        if waiting.outcome is None:
            await self._take_turn(waiting)
        return waiting.result()

    async def _take_turn(self, waiting: _Waiting[_Item]) -> None:
        """Others' items are among those queued, so no cancellation may lose them on the way.

        Those who were answered a moment ago have a turn to come again: that is a tick, and makes batches whole.
        """
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            del self._queue[waiting]
            self._pass_on()
            raise
        await self._go_with_all()

    async def _go_with_all(self) -> None:
        batch = list(islice(self._queue, self._at_once))
        for one in batch:
            del self._queue[one]
        try:
            with trio.CancelScope(shield=True):
                outcomes = await self._go([one.item for one in batch])
            for one, result in zip(batch, outcomes, strict=True):
                one.outcome = result
        finally:
            self._pass_on()
            for one in batch:
                one.woken.set()

    def _pass_on(self) -> None:
        """The oldest that waits is next."""
        following = next(iter(self._queue), None)
        self._under_way = following is not None
        if following is not None:
            following.woken.set()
