"""What a gateway refuses by itself: requests of a key that an orchestrator has just told to wait. Pure.

Only orchestrators decide who is let in. Asking one again before its own answer allows it costs a round trip and a
transaction, so until then the gateway repeats what it was told; never for long, for limits may be raised.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from p2p.errors import RATE_LIMITED, TetherError

AT_MOST_S: Final = 5.0
KEPT: Final = 1_024
"""Keys at a time; those told longest ago are forgotten."""


@dataclass(frozen=True, slots=True)
class _Told:
    error: TetherError
    until: float
    tokens: int


class Refusals:
    """now: monotonic seconds; who: a tenant and its key; tokens: the worst case of a request."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, str], _Told] = OrderedDict()

    def check(self, who: tuple[str, str], tokens: int, now: float) -> None:
        """Raises TetherError(RATE_LIMITED) while a request of this size was refused just now."""
        told = self._told.get(who)
        if told is None or tokens < told.tokens:
            return
        if told.until <= now:
            del self._told[who]
            return
        error = told.error
        raise TetherError(error.code, error.detail, retry_after_s=told.until - now, rates=error.rates)

    def note(self, who: tuple[str, str], tokens: int, error: TetherError, now: float) -> None:
        """Remember a refusal that says when to ask again."""
        if error.code is not RATE_LIMITED or error.retry_after_s is None:
            return
        self._told[who] = _Told(error, now + min(error.retry_after_s, AT_MOST_S), tokens)
        self._told.move_to_end(who)
        while len(self._told) > KEPT:
            self._told.popitem(last=False)
