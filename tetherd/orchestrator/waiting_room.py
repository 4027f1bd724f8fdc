"""Who gets which slot, and who waits for one: at once where there is room, else in fair turns as room comes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import trio

from tetherd.orchestrator.fair_queue import FairQueue
from tetherd.orchestrator.matcher import Match, NoMatch, Wish, match
from tetherd.orchestrator.ports import OrchestratorMetrics
from tetherd.orchestrator.workforce import Seat, Workforce

MAX_WAITING: Final = 256
"""What a burst may be; each waits at most five seconds."""
LOOK_AGAIN_S: Final = 0.1
"""Workers report a changed load within a quarter of a second; looking more often finds little."""
_BUSY: Final = NoMatch("busy")


@dataclass(eq=False, slots=True)
class _Waiter:
    """outcome: the last answer; ready is set once it is final."""

    tenant: str
    wish: Wish
    outcome: Seat | NoMatch = _BUSY
    ready: trio.Event = field(default_factory=trio.Event)

    def tell(self, outcome: Seat | NoMatch) -> None:
        self.outcome = outcome
        self.ready.set()


class WaitingRoom:
    def __init__(self, workforce: Workforce, metrics: OrchestratorMetrics) -> None:
        self._workforce = workforce
        self._metrics = metrics
        self._queue: FairQueue[_Waiter] = FairQueue(MAX_WAITING)
        self._somebody = trio.Event()

    async def run(self) -> None:
        """Look after those who wait, until cancelled."""
        while True:
            await self._somebody.wait()
            await trio.sleep(LOOK_AGAIN_S)
            self._serve()
            if not self._queue:
                self._somebody = trio.Event()

    async def seat(self, tenant: str, wish: Wish, until_s: float) -> Seat | NoMatch:
        """Wait for a slot as long as waiting may help, at most until that instant (monotonic); then say why not."""
        waiter = _Waiter(tenant, wish)
        loser = self._queue.join(tenant, waiter)
        if loser is not None:
            loser.ready.set()
        self._serve()
        if self._queue:
            self._somebody.set()
        self._metrics.waiting(len(self._queue))
        try:
            with trio.move_on_at(until_s):
                await waiter.ready.wait()
        except trio.Cancelled:
            if isinstance(waiter.outcome, Seat):
                self._workforce.left(waiter.outcome)
            raise
        finally:
            self._queue.leave(tenant, waiter)
            self._metrics.waiting(len(self._queue))
        return waiter.outcome

    def _serve(self) -> None:
        """Give what there is to those who are due, and tell those whom waiting cannot help."""
        states = self._workforce.states()
        hopeless: set[tuple[str, str, str]] = set()
        for waiter in list(self._queue.in_order()):
            wish = waiter.wish
            kind = wish.model, wish.version, wish.digest
            if kind in hopeless and not wish.exclude:
                continue
            found = match(wish, states.values())
            if isinstance(found, Match):
                chosen, served = found.choices[0]
                seat, after = self._workforce.take(chosen, served)
                states.pop(chosen.peer)
                if after is not None:
                    states[chosen.peer] = after
                self._queue.served(waiter.tenant, waiter)
                waiter.tell(seat)
            elif found.reason in ("unserved", "excluded"):
                self._queue.leave(waiter.tenant, waiter)
                waiter.tell(found)
            else:
                waiter.outcome = found
                if not wish.exclude:
                    hopeless.add(kind)
