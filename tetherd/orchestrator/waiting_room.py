"""Who gets which slot, and who waits for one: at once where there is room, else in fair turns as room comes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import trio

from p2p.identity import PeerId
from tetherd.orchestrator.fair_queue import FairQueue
from tetherd.orchestrator.flow import Flow
from tetherd.orchestrator.matcher import Match, NoMatch, Wish, match
from tetherd.orchestrator.ports import OrchestratorMetrics
from tetherd.orchestrator.workforce import Seat, Workforce

MAX_WAITING: Final = 256
"""What a burst may be; each waits at most five seconds."""
LOOK_AGAIN_S: Final = 0.1
"""Workers report a changed load within a quarter of a second; looking more often finds little."""
KNOWN_S: Final = 0.4
"""A slot that is free is known to be within that time: only who still waits then is told that there is none. A client
with as many requests as there are slots asks for them all again in the moment in which it has its answers."""
_BUSY: Final = NoMatch("busy")


@dataclass(eq=False, slots=True)
class _Waiter:
    """outcome: the last answer; ready is set once it is final."""

    tenant: str
    wish: Wish
    waited: bool = False
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
        self._flow = Flow()

    async def run(self) -> None:
        """Look after those who wait, until cancelled."""
        while True:
            await self._somebody.wait()
            await trio.sleep(LOOK_AGAIN_S)
            self._serve()
            if not self._queue:
                self._somebody = trio.Event()

    def position(self, job: bytes) -> int:
        """How many are due before this job, and itself; 0: it does not wait here."""
        jobs = [waiter.wish.job for waiter in self._queue.in_order()]
        return jobs.index(job) + 1 if job in jobs else 0

    def wait_s(self, wish: Wish) -> float | None:
        """How long somebody would wait who comes now, if that can be told."""
        ahead = sum(waiter.wish.model == wish.model for waiter in self._queue.in_order())
        return self._flow.wait_s(wish.model, ahead, trio.current_time())

    async def seat(
        self, tenant: str, wish: Wish, until_s: float, *, tokens: int = 1, weight: int = 1
    ) -> Seat | NoMatch:
        """Wait for a slot as long as waiting may help, at most until that instant (monotonic); then say why not.

        Who would have to wait longer than that is told so after KNOWN_S: a refusal after a timeout helps nobody.
        """
        waiter = _Waiter(tenant, wish)
        loser = self._queue.join(tenant, waiter, tokens=tokens, weight=weight)
        if loser is not None:
            loser.ready.set()
        self._serve()
        if not waiter.ready.is_set():
            waiter.waited = True
        if self._queue:
            self._somebody.set()
        self._metrics.waiting(len(self._queue))
        try:
            with trio.move_on_at(min(until_s, trio.current_time() + KNOWN_S)):
                await waiter.ready.wait()
            if not self._is_hopeless(waiter, until_s):
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

    def _is_hopeless(self, waiter: _Waiter, until_s: float) -> bool:
        now_s = trio.current_time()
        wait_s = self._flow.wait_s(waiter.wish.model, self._ahead(waiter), now_s)
        return wait_s is not None and now_s + wait_s > until_s

    def _ahead(self, waiter: _Waiter) -> int:
        """How many of the same model are due before."""
        ahead = 0
        for other in self._queue.in_order():
            if other is waiter:
                break
            ahead += other.wish.model == waiter.wish.model
        return ahead

    def _serve(self) -> None:
        """Give what there is to those who are due, and tell those whom waiting cannot help."""
        states = self._workforce.states()
        hopeless: set[tuple[str, str, str, frozenset[PeerId] | None]] = set()
        for waiter in list(self._queue.in_order()):
            wish = waiter.wish
            kind = wish.model, wish.version, wish.digest, wish.only
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
                if waiter.waited:
                    self._flow.moved(wish.model, trio.current_time())
                waiter.tell(seat)
            elif found.reason in ("unserved", "excluded"):
                self._queue.leave(waiter.tenant, waiter)
                waiter.tell(found)
            else:
                waiter.outcome = found
                if not wish.exclude:
                    hopeless.add(kind)
