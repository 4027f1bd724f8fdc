"""Which neighbours get an author's messages without this node. Pure, bounded.

Where all followers know each other, every message comes from its author at once, and each copy that is passed on is one
too many. Who gets such a copy of what the author itself brought says so, by an IHAVE of that one message, and is passed
nothing more of that author for a while (Plumtree's lazy links, in GossipSub's words). It hears each second which
messages there were, as others do; once it asks for one, it lacked it, and is passed them again.
"""

from __future__ import annotations

from typing import Final

from libp2p.peer.id import ID

SUPPLIED_S: Final = 30.0
"""How long a word counts, and how often it is said."""
MAX_SUPPLIES: Final = 4_096
"""Of a neighbour and an author; what was said longest ago goes first."""

_Pair = tuple[ID, bytes]


class Supplies:
    """Times are monotonic seconds; authors are ids in bytes."""

    def __init__(self) -> None:
        self._supplied: dict[_Pair, float] = {}
        self._told: dict[_Pair, float] = {}

    def has(self, peer: ID, author: bytes, now: float) -> bool:
        """Whether the neighbour said lately that it needs no copies of this author's messages."""
        return self._supplied.get((peer, author), 0.0) > now

    def said(self, peer: ID, author: bytes, now: float) -> None:
        _put(self._supplied, (peer, author), now + SUPPLIED_S)

    def lacked(self, peer: ID, author: bytes) -> None:
        self._supplied.pop((peer, author), None)

    def say(self, peer: ID, author: bytes, now: float) -> bool:
        """Whether to tell the neighbour, who just passed on a copy, that it need not; True once in a while."""
        if self._told.get((peer, author), 0.0) > now:
            return False
        _put(self._told, (peer, author), now + SUPPLIED_S)
        return True

    def forget(self, peer: ID) -> None:
        """Its connection ended: what it said is void, and so is what it was told."""
        for words in (self._supplied, self._told):
            for pair in [pair for pair in words if pair[0] == peer]:
                del words[pair]


def _put(words: dict[_Pair, float], pair: _Pair, until: float) -> None:
    words.pop(pair, None)
    words[pair] = until
    if len(words) > MAX_SUPPLIES:
        del words[next(iter(words))]
