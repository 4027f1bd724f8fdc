"""Which chunk to ask of whom, next. Pure: the shell brings sources, chunks and failures.

- Of what a source has, the chunk that the fewest others have goes first, so that a swarm has all of a file soon after
  its origin has sent it once. Among equals each node draws its own, or all would ask the origin for the same.
- A chunk is asked of one source at a time; at the end, when nothing else is left to ask for, of another one, too, so
  that the slowest does not decide when a fetch is over.
- Who sends a wrong chunk is asked for nothing more. Who is slow or gone is asked again after a pause that doubles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

ENDGAME_COPIES: Final = 2
FIRST_PAUSE_S: Final = 1.0
LAST_PAUSE_S: Final = 60.0

_Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(slots=True)
class _Source:
    """has: by chunk; counts: whether it makes chunks less rare, as peers do and origins, which have all, do not."""

    has: _Flags
    counts: bool
    asked: set[int] = field(default_factory=set)
    banned: bool = False
    rests_until_s: float = 0.0
    pause_s: float = FIRST_PAUSE_S


class Planner:
    """One file's fetch. draw: uniform in [0, 1), once for each chunk at first."""

    def __init__(self, count: int, done: Iterable[int], draw: Callable[[], float]) -> None:
        self._missing: _Flags = np.ones(count, np.bool_)
        self._missing[list(done)] = False
        self._copies = np.zeros(count, np.int32)
        self._asked = np.zeros(count, np.int32)
        self._taste = np.array([draw() for _ in range(count)], np.float64)
        self._sources: dict[str, _Source] = {}

    @property
    def complete(self) -> bool:
        return not self._missing.any()

    @property
    def sources(self) -> frozenset[str]:
        """Those that may be asked, now or after a pause."""
        return frozenset(name for name, source in self._sources.items() if not source.banned)

    @property
    def left(self) -> int:
        return int(self._missing.sum())

    def join(self, name: str, *, whole: bool) -> None:
        """A source appears, or appears again. whole: it has every chunk, and says so once for all (an origin)."""
        if name not in self._sources:
            self._sources[name] = _Source(np.full(len(self._missing), whole, np.bool_), counts=not whole)

    def has(self, name: str, chunks: Iterable[int]) -> None:
        """A peer has these, too."""
        source = self._sources[name]
        fresh = [index for index in chunks if 0 <= index < len(self._missing) and not source.has[index]]
        source.has[fresh] = True
        if source.counts:
            self._copies[fresh] += 1

    def leave(self, name: str) -> None:
        """A peer is gone; if it was banned, it stays so when it comes back."""
        source = self._sources[name]
        self._give_up(source)
        if source.counts:
            self._copies[source.has] -= 1
        source.has[:] = False
        if not source.banned:
            del self._sources[name]

    def next(self, name: str, now_s: float) -> int | None:
        """The chunk to ask this source for, which is then asked for; None: nothing now. now_s: monotonic."""
        source = self._sources[name]
        if source.banned or now_s < source.rests_until_s:
            return None
        wanted = self._missing & source.has
        fresh = wanted & (self._asked == 0)
        if not fresh.any():
            fresh = wanted & (self._asked < ENDGAME_COPIES) if self._endgame() else fresh
            fresh[list(source.asked)] = False
        candidates = np.flatnonzero(fresh)
        if not len(candidates):
            return None
        order = self._asked[candidates] * 1e6 + self._copies[candidates] + self._taste[candidates]
        index = int(candidates[int(order.argmin())])
        source.asked.add(index)
        self._asked[index] += 1
        return index

    def rests_for(self, name: str, now_s: float) -> float:
        """Seconds until this source may be asked again."""
        return max(0.0, self._sources[name].rests_until_s - now_s)

    def arrived(self, name: str, index: int) -> bool:
        """A verified chunk came. False: another source was quicker."""
        source = self._sources.get(name)
        if source is not None:
            self._unask(source, index)
            source.pause_s = FIRST_PAUSE_S
        first = bool(self._missing[index])
        self._missing[index] = False
        return first

    def failed(self, name: str, index: int, now_s: float) -> None:
        """It did not come, or not in time."""
        source = self._sources.get(name)
        if source is None:
            return
        self._unask(source, index)
        source.rests_until_s = now_s + source.pause_s
        source.pause_s = min(2 * source.pause_s, LAST_PAUSE_S)

    def ban(self, name: str) -> None:
        """It lied: what it sent, or what it said of the file, is not what was signed."""
        source = self._sources[name]
        self._give_up(source)
        source.banned = True

    def _endgame(self) -> bool:
        return not (self._missing & (self._asked == 0)).any()

    def _give_up(self, source: _Source) -> None:
        for index in tuple(source.asked):
            self._unask(source, index)

    def _unask(self, source: _Source, index: int) -> None:
        if index in source.asked:
            source.asked.discard(index)
            self._asked[index] -= 1
