"""Whether a worker gets work for a model. Pure.

    state      event                                   becomes
    ---------  --------------------------------------  ---------------------------------------------
    closed     failed, LIMIT times in a row            open, for PAUSE_S
    closed     succeeded                               closed, its failures forgotten
    open       the pause has passed                    half-open
    half-open  started                                 half-open, probing: nothing else is let through
    half-open  aborted, or PROBE_S without a word      half-open, not probing
    half-open  succeeded                               closed
    half-open  failed                                  open, for twice the pause (at most MAX_PAUSE_S)

What fails while the breaker is open was under way before, and changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final, Literal

from p2p.errors import (
    CALL_LOST,
    DEADLINE,
    DECRYPT_FAILED,
    ENGINE_FAILED,
    FRAME_INVALID,
    INTERNAL,
    UNREACHABLE,
)
from p2p.identity import PeerId

LIMIT: Final = 3
"""Failures in a row: one is bad luck, three are a state."""
PAUSE_S: Final = 2.0
MAX_PAUSE_S: Final = 60.0
PROBE_S: Final = 30.0
"""A probe whose gateway never tells how it went must not lock its worker out."""
MAX_BREAKERS: Final = 4_096

FAULTS: Final = frozenset(
    code.name
    for code in (CALL_LOST, UNREACHABLE, DEADLINE, ENGINE_FAILED, FRAME_INVALID, DECRYPT_FAILED, INTERNAL)
)
"""Causes that speak against a worker. One that is full, drains or refuses a bad request does what it should."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """One worker's for one model. opened_s, probing_s: monotonic; None while closed, or without a probe."""

    failures: int = 0
    opened_s: float | None = None
    pause_s: float = PAUSE_S
    probing_s: float | None = None

    def state(self, now_s: float) -> Literal["closed", "open", "half-open"]:
        if self.opened_s is None:
            return "closed"
        return "half-open" if now_s >= self.opened_s + self.pause_s else "open"

    def allows(self, now_s: float) -> bool:
        match self.state(now_s):
            case "closed":
                return True
            case "half-open":
                return self.probing_s is None or now_s >= self.probing_s + PROBE_S
            case "open":
                return False

    def started(self, now_s: float) -> Breaker:
        return replace(self, probing_s=now_s) if self.state(now_s) == "half-open" else self

    def aborted(self) -> Breaker:
        """What was started says nothing about the worker: it was full, or nobody waited for it."""
        return replace(self, probing_s=None)

    def failed(self, now_s: float) -> Breaker:
        match self.state(now_s):
            case "closed":
                failures = self.failures + 1
                return replace(self, failures=failures, opened_s=now_s if failures >= LIMIT else None)
            case "half-open":
                return Breaker(self.failures + 1, now_s, min(2 * self.pause_s, MAX_PAUSE_S))
            case "open":
                return self


class Breakers:
    """The breakers of whoever failed lately, by worker and model; a breaker that is not here is closed."""

    def __init__(self) -> None:
        self._breakers: OrderedDict[tuple[PeerId, str], Breaker] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether any has something to say."""
        return bool(self._breakers)

    def allows(self, worker: PeerId, model: str, now_s: float) -> bool:
        breaker = self._breakers.get((worker, model))
        return breaker is None or breaker.allows(now_s)

    def started(self, worker: PeerId, model: str, now_s: float) -> None:
        if breaker := self._breakers.get((worker, model)):
            self._breakers[worker, model] = breaker.started(now_s)

    def aborted(self, worker: PeerId, model: str) -> None:
        if breaker := self._breakers.get((worker, model)):
            self._breakers[worker, model] = breaker.aborted()

    def succeeded(self, worker: PeerId, model: str) -> None:
        self._breakers.pop((worker, model), None)

    def failed(self, worker: PeerId, model: str, now_s: float) -> None:
        breaker = self._breakers.get((worker, model), Breaker())
        self._breakers[worker, model] = breaker.failed(now_s)
        self._breakers.move_to_end((worker, model))
        if len(self._breakers) > MAX_BREAKERS:
            self._breakers.popitem(last=False)
