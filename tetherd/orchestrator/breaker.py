"""Whether a worker gets work. Pure.

    closed ──failures in a row: LIMIT──> open ──after a pause──> half-open ──one success──> closed
      ^                                   ^                          │
      └── a success forgets the failures  └────── one failure ───────┘   (the pause doubles, up to a minute)

Half-open lets one job through at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final, Literal

from p2p.identity import PeerId

LIMIT: Final = 3
"""Failures in a row: one is bad luck, three are a state."""
PAUSE_S: Final = 2.0
MAX_PAUSE_S: Final = 60.0
MAX_WORKERS: Final = 4_096


@dataclass(frozen=True, slots=True)
class Breaker:
    """One worker's. opened_s: monotonic, None while closed; probing: half-open, with its one job under way."""

    failures: int = 0
    opened_s: float | None = None
    pause_s: float = PAUSE_S
    probing: bool = False

    def state(self, now_s: float) -> Literal["closed", "open", "half-open"]:
        if self.opened_s is None:
            return "closed"
        return "half-open" if now_s >= self.opened_s + self.pause_s else "open"

    def allows(self, now_s: float) -> bool:
        match self.state(now_s):
            case "closed":
                return True
            case "half-open":
                return not self.probing
            case "open":
                return False

    def started(self, now_s: float) -> Breaker:
        return replace(self, probing=True) if self.state(now_s) == "half-open" else self

    def succeeded(self) -> Breaker:
        return Breaker()

    def failed(self, now_s: float) -> Breaker:
        if self.state(now_s) == "half-open":
            return Breaker(self.failures + 1, now_s, min(2 * self.pause_s, MAX_PAUSE_S))
        failures = self.failures + 1
        return replace(self, failures=failures, opened_s=now_s if failures >= LIMIT else self.opened_s)


class Breakers:
    """The breakers of all workers that ever failed, the most recent MAX_WORKERS of them."""

    def __init__(self) -> None:
        self._breakers: OrderedDict[PeerId, Breaker] = OrderedDict()

    def allows(self, worker: PeerId, now_s: float) -> bool:
        return self._breakers.get(worker, Breaker()).allows(now_s)

    def started(self, worker: PeerId, now_s: float) -> None:
        if worker in self._breakers:
            self._put(worker, self._breakers[worker].started(now_s))

    def succeeded(self, worker: PeerId) -> None:
        self._breakers.pop(worker, None)

    def failed(self, worker: PeerId, now_s: float) -> None:
        self._put(worker, self._breakers.get(worker, Breaker()).failed(now_s))

    def _put(self, worker: PeerId, breaker: Breaker) -> None:
        self._breakers[worker] = breaker
        self._breakers.move_to_end(worker)
        while len(self._breakers) > MAX_WORKERS:
            self._breakers.popitem(last=False)
