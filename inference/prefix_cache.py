"""What the slots hold from earlier answers, and who may begin with it instead of computing it again. Pure.

A slot keeps its tokens after its answer has left, until somebody else needs it: that is the whole cache, so it is
bounded by the memory of the slots. A request looks twice: when it gets its slot, for the one that it can go on in; and
when its first chunk is due, for anything longer that others have computed meanwhile, which it then copies.

- A hit ends at a multiple of BORDER, where prefill chunks end too: what is computed after it has the same shapes.
- Only within a scope: one tenant never learns, by how fast an answer begins, what another one asked.
- What was computed fast never serves an exact request: its bits may differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from inference.recipe import EXACT_CHUNK

BORDER: Final = EXACT_CHUNK
LEAST_COPIED: Final = 2 * BORDER
"""Copying a slot costs about as much as computing a chunk; less is not worth it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request begins with. tokens: all that are known; scope: who shares, b"" for nobody."""

    tokens: Sequence[int]
    scope: bytes
    exact: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The first length tokens are in slot source."""

    source: int
    length: int


@dataclass(slots=True)
class _Held:
    """tokens: may grow; filled: how many of them are in the slot; used: when it last changed hands.

    growing: whether its answer is still there, so that what is known of it will be in the slot before long.
    """

    tokens: Sequence[int] = ()
    filled: int = 0
    scope: bytes = b""
    exact: bool = False
    used: int = 0
    growing: bool = False


class PrefixCache:
    """slots: as many as the context has."""

    def __init__(self, slots: int) -> None:
        self._held = [_Held() for _ in range(slots)]
        self._clock = 0

    def choose(self, wanted: Wanted, free: Sequence[int]) -> int:
        """The best of the free slots: most of what it holds is wanted, else beside those in use, else used longest ago.

        Neighbours matter because llama.cpp computes a run of neighbouring slots in one go.
        """
        best = max(free, key=lambda slot: self._common(slot, wanted))
        common = self._common(best, wanted)
        if common and 2 * common >= self._held[best].filled:
            return best
        busy = [slot for slot in range(len(self._held)) if slot not in free]
        return min(free, key=lambda slot: (_distance(slot, busy), self._held[slot].used, slot))

    def find(self, wanted: Wanted, slot: int) -> Found:
        """Where most of it is now; in the request's own slot where that is as good as any. length 0: nowhere."""
        found = Found(slot, self._common(slot, wanted))
        for source in range(len(self._held)):
            length = self._common(source, wanted)
            if length >= found.length + LEAST_COPIED:
                found = Found(source, length)
        return found

    def awaited(self, wanted: Wanted, slot: int) -> bool:
        """Whether a slot will soon hold more of it than `find` would say now."""
        if not wanted.scope or not any(held.growing for held in self._held):
            return False
        enough = max(self.find(wanted, slot).length + BORDER, self._common(slot, wanted) + LEAST_COPIED)
        return any(
            self._known(source, wanted, len(held.tokens)) >= enough
            for source, held in enumerate(self._held)
            if held.growing
        )

    def take(self, slot: int, wanted: Wanted, length: int) -> None:
        """A request goes on in a slot after its first length tokens."""
        self._clock += 1
        self._held[slot] = _Held(wanted.tokens, length, wanted.scope, wanted.exact, self._clock, True)

    def fill(self, slot: int, filled: int) -> None:
        """So many of its tokens are in the slot now."""
        self._held[slot].filled = filled

    def leave(self, slot: int) -> None:
        """Its answer is over; its tokens stay."""
        self._clock += 1
        self._held[slot].used = self._clock
        self._held[slot].growing = False

    def _common(self, slot: int, wanted: Wanted) -> int:
        """At most all but the last token: that one has to be computed for what follows it."""
        return self._known(slot, wanted, self._held[slot].filled)

    def _known(self, slot: int, wanted: Wanted, upto: int) -> int:
        """The same of a slot's first upto tokens, whether they are in it or not."""
        held = self._held[slot]
        if not wanted.scope or held.scope != wanted.scope or (wanted.exact and not held.exact):
            return 0
        limit = min(upto, len(wanted.tokens) - 1) // BORDER * BORDER
        for start in range(0, limit, BORDER):
            if held.tokens[start : start + BORDER] != wanted.tokens[start : start + BORDER]:
                return start
        return max(0, limit)


def _distance(slot: int, busy: Sequence[int]) -> int:
    return min((abs(slot - other) for other in busy), default=0)
