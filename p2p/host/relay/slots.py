"""Who may be reached through this node, and the circuits under way. Pure.

Slots are counted by the peer that the connection proved, whatever a message claims: one a peer, however often it asks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from p2p.host.relay.wire import Status
from p2p.host.settings import RelayTerms
from p2p.identity import PeerId


class Refused(Exception):
    """status: what to answer."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


@dataclass(eq=False, slots=True)
class Opened:
    """A circuit under way. left_bytes: that it may still carry, both ways together."""

    source: PeerId
    target: PeerId
    left_bytes: int

    def spend(self, size_bytes: int) -> bool:
        """Whether so much may still be passed on."""
        self.left_bytes -= size_bytes
        return self.left_bytes >= 0


class Slots:
    """now_s: monotonic."""

    def __init__(self, terms: RelayTerms) -> None:
        self._terms = terms
        self._until: dict[PeerId, float] = {}
        self._circuits: set[Opened] = set()
        self._ends: Counter[PeerId] = Counter()

    def reserve(self, peer: PeerId, now_s: float) -> None:
        """Give the peer its slot, or keep it for longer. Raises Refused."""
        if peer not in self._until and len(self._until) >= self._terms.reservations:
            self._until = {one: until for one, until in self._until.items() if until > now_s}
            if len(self._until) >= self._terms.reservations:
                raise Refused(Status.RESERVATION_REFUSED)
        self._until[peer] = now_s + self._terms.reservation_s

    def left(self, peer: PeerId) -> None:
        """Its connection is gone, and the reservation with it; circuits notice by themselves."""
        self._until.pop(peer, None)

    def open(self, source: PeerId, target: PeerId, now_s: float) -> Opened:
        """Raises Refused."""
        if self._until.get(target, now_s) <= now_s:
            raise Refused(Status.NO_RESERVATION)
        a_peer = self._terms.circuits_a_peer
        full = len(self._circuits) >= self._terms.circuits
        if full or self._ends[source] >= a_peer or self._ends[target] >= a_peer:
            raise Refused(Status.RESOURCE_LIMIT_EXCEEDED)
        opened = Opened(source, target, self._terms.circuit_bytes)
        self._circuits.add(opened)
        self._ends.update((source, target))
        return opened

    def close(self, opened: Opened) -> None:
        """This one, and none of the peers' others."""
        self._circuits.remove(opened)
        for end in (opened.source, opened.target):
            self._ends[end] -= 1
            if not self._ends[end]:
                del self._ends[end]

    def serves(self, peer: PeerId) -> bool:
        """Whether its connection is of use to a circuit, or will be."""
        return peer in self._until or peer in self._ends

    @property
    def reservations(self) -> int:
        return len(self._until)

    @property
    def circuits(self) -> int:
        return len(self._circuits)

    def load(self) -> float:
        """0 to 1: the fuller of the two."""
        return max(len(self._until) / self._terms.reservations, len(self._circuits) / self._terms.circuits)
