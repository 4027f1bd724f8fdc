"""From where peers see this node come: what its router makes of its listening port. Pure.

Only connections that leave from the listening port, or arrive at it, tell anything of that port, so a node behind a
router dials from it. Peers that see different ports show that the router maps each destination differently.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Container
from typing import Final

from p2p.host.addresses import TcpAddress
from p2p.identity import PeerId

MAX_WITNESSES: Final = 32
"""The latest. One vote each, so a few liars among them change nothing."""
MAX_SEEN: Final = 3
"""Addresses told to others: one a family, and room for a router that was just changed."""


class Observed:
    """What peers say they see, latest first out of the table."""

    def __init__(self) -> None:
        self._said: OrderedDict[PeerId, TcpAddress] = OrderedDict()

    def saw(self, witness: PeerId, address: TcpAddress) -> bool:
        """Note what a peer says; only a public address counts. Whether that changes `outside`."""
        if address.ip is None or not address.ip.is_global or not address.port:
            return False
        before = self.outside()
        self._said[witness] = address
        self._said.move_to_end(witness)
        while len(self._said) > MAX_WITNESSES:
            self._said.popitem(last=False)
        return self.outside() != before

    def forget(self, still: Container[PeerId] = ()) -> None:
        """This machine has moved: what was seen was seen elsewhere, but for those who still see it."""
        for witness in [one for one in self._said if one not in still]:
            del self._said[witness]

    def outside(self) -> tuple[TcpAddress, ...]:
        """Where this node seems to be, by the number of witnesses, the latest first among equals."""
        votes = Counter(reversed(self._said.values()))
        return tuple(address for address, _ in votes.most_common(MAX_SEEN))

    @property
    def settled(self) -> bool:
        """Whether at least two witnesses agree and no other contradicts them: a mapping that others can rely on."""
        families = {address.family for address in self._said.values()}
        return len(self._said) > 1 and len(set(self._said.values())) == len(families)
