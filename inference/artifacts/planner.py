"""Which chunk to ask of whom, next. Pure: the shell brings sources, chunks and failures.

- Of what a source has, the chunk that the fewest others have, or have asked for, goes first, so that a swarm has all
  of a file soon after its origin has sent it once. Among equals each node draws its own, or all would ask the origin
  for the same.
- A source is asked for one chunk at a time, and for more ahead the sooner it delivers, up to PIPELINE: who is asked too
  early for too much sends what others could have by then.
- A chunk is asked of one source; at the end, when nothing else is left to ask for, of another one, too, if the first
  takes much longer than that one usually does, so that the slowest does not decide when a fetch is over.
- Who sends a wrong chunk is asked for nothing more. Who is slow or gone is asked again after a pause that doubles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

ENDGAME_COPIES: Final = 2
ENDGAME_TIMES: Final = 2.0
"""So many times what the other source usually takes, a chunk has to be under way before it is asked for twice."""
PIPELINE: Final = 4
AHEAD_S: Final = 0.2
"""For how long the chunks that were asked for should keep a source busy."""
FIRST_PAUSE_S: Final = 1.0
LAST_PAUSE_S: Final = 60.0

_Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(slots=True)
class _Source:
    """has, expects: by chunk; counts: whether it makes chunks less rare: peers do, origins, which have all, do not.

    asked: when (monotonic) it was asked for which chunks; takes_s: from one chunk to the next, lately.
    """

    has: _Flags
    expects: _Flags
    counts: bool
    asked: dict[int, float] = field(default_factory=dict)
    came_s: float = 0.0
    takes_s: float | None = None
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
            size = len(self._missing)
            has = np.full(size, whole, np.bool_)
            self._sources[name] = _Source(has, np.zeros(size, np.bool_), counts=not whole)

    def has(self, name: str, chunks: Iterable[int]) -> None:
        """A peer has these, too."""
        source = self._sources[name]
        fresh = self._expect(source, chunks)
        source.has[[index for index in chunks if 0 <= index < len(self._missing)]] = True
        if source.counts:
            self._copies[fresh] += 1

    def coming(self, name: str, chunks: Iterable[int]) -> None:
        """A peer has asked others for these: they are as good as there, when it is asked what is rare."""
        source = self._sources[name]
        fresh = self._expect(source, chunks)
        if source.counts:
            self._copies[fresh] += 1

    def leave(self, name: str) -> None:
        """A peer is gone; if it was banned, it stays so when it comes back."""
        source = self._sources[name]
        self._give_up(source)
        if source.counts:
            self._copies[source.expects] -= 1
        source.has[:] = source.expects[:] = False
        if not source.banned:
            del self._sources[name]

    def next(self, name: str, now_s: float) -> int | None:
        """The chunk to ask this source for, which is then asked for; None: nothing now. now_s: monotonic."""
        source = self._sources[name]
        if source.banned or now_s < source.rests_until_s or len(source.asked) >= self._depth(source):
            return None
        wanted = self._missing & source.has
        candidates = np.flatnonzero(wanted & (self._asked == 0))
        if not len(candidates):
            candidates = self._late(source, wanted, now_s)
        if not len(candidates):
            return None
        order = self._asked[candidates] * 1e6 + self._copies[candidates] + self._taste[candidates]
        index = int(candidates[int(order.argmin())])
        source.asked[index] = now_s
        self._asked[index] += 1
        return index

    def asked(self) -> frozenset[int]:
        """What is under way from any source."""
        return frozenset(np.flatnonzero(self._missing & (self._asked > 0)).tolist())

    def rests_for(self, name: str, now_s: float) -> float:
        """Seconds until this source may be asked again."""
        return max(0.0, self._sources[name].rests_until_s - now_s)

    def arrived(self, name: str, index: int, now_s: float) -> bool:
        """A verified chunk came. False: another source was quicker. now_s: monotonic."""
        source = self._sources.get(name)
        if source is not None and index in source.asked:
            took_s = now_s - max(source.asked[index], source.came_s)
            source.takes_s = took_s if source.takes_s is None else (source.takes_s + took_s) / 2
            source.came_s = now_s
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

    def _depth(self, source: _Source) -> int:
        """How many chunks it should have to do."""
        if source.takes_s is None:
            return 1
        return min(PIPELINE, 1 + int(AHEAD_S / max(source.takes_s, 1e-6)))

    def _late(self, source: _Source, wanted: _Flags, now_s: float) -> np.ndarray[Any, np.dtype[np.intp]]:
        """At the end: what others were asked for so long ago that this source would be quicker."""
        if (self._missing & (self._asked == 0)).any() or source.takes_s is None:
            return np.flatnonzero(np.zeros(0))
        since = now_s - ENDGAME_TIMES * source.takes_s
        late = np.zeros(len(self._missing), np.bool_)
        for other in self._sources.values():
            if other is not source:
                late[[index for index, asked_s in other.asked.items() if asked_s < since]] = True
        late[list(source.asked)] = False
        return np.flatnonzero(wanted & late & (self._asked < ENDGAME_COPIES))

    def _expect(self, source: _Source, chunks: Iterable[int]) -> list[int]:
        """Those that were not expected of this source before."""
        sound = {index for index in chunks if 0 <= index < len(self._missing)}
        fresh = [index for index in sound if not source.expects[index]]
        source.expects[fresh] = True
        return fresh

    def _give_up(self, source: _Source) -> None:
        for index in tuple(source.asked):
            self._unask(source, index)

    def _unask(self, source: _Source, index: int) -> None:
        if source.asked.pop(index, None) is not None:
            self._asked[index] -= 1
