"""Which connections to let go when there are more than the budget: those that were used longest ago. Pure.

A connection is in use for as long as it carries a call, is a link of a gossip mesh or holds a relay's reservation; what
is in use, and what was just made, stays, even beyond the budget. Whoever lets go says goodbye first; both sides make a
new connection when one of them next has something to say, and not before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

from p2p.identity import PeerId

YOUNG_S: Final = 10.0
"""Whoever connects has a reason, and gets this long to act on it."""
IN_USE: Final = inf
UNUSED: Final = -inf


@dataclass(frozen=True, slots=True)
class Held:
    """A connection. used_s: when it was last of use, `IN_USE` for now; born_s: when it was made; both monotonic."""

    peer: PeerId
    born_s: float
    used_s: float


def let_go(held: Iterable[Held], budget: int, now_s: float) -> list[PeerId]:
    """The peers to part with, least recently used first. now_s: monotonic."""
    connections = list(held)
    surplus = len(connections) - budget
    if surplus <= 0:
        return []
    free = [one for one in connections if one.used_s < IN_USE and now_s - one.born_s >= YOUNG_S]
    free.sort(key=lambda one: (max(one.born_s, one.used_s), one.peer))
    return [one.peer for one in free[:surplus]]
