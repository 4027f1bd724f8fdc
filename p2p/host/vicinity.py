"""What a node does in its LAN: it asks the router for a way in, and finds members that are there (mDNS).

Nothing of it happens on a machine that listens on loopback alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from p2p.errors import TetherError
from p2p.host.addresses import TcpAddress
from p2p.host.interfaces import Interface, lans
from p2p.host.mdns import Lan
from p2p.host.switch import Switch
from p2p.host.upnp import PortMapping
from p2p.identity import PeerId
from p2p.membership import SwarmId
from p2p.transport import PeerAddress

ENOUGH_PEERS: Final = 20
"""Kademlia's k: a node with so many connections is in the swarm, and only notes where its neighbours are."""
MAX_DIALS: Final = 4
"""Of neighbours at a time."""
DIAL_AGAIN_S: Final = 60.0
"""A neighbour that could not be reached is not tried again before, however often it says that it is there."""
MAX_NOTED: Final = 256


class Vicinity:
    """One node's, on the first IPv4 port that it listens on. announce: called when the router's mapping changed."""

    def __init__(self, switch: Switch, swarm_id: SwarmId, announce: Callable[[], None]) -> None:
        self._announce = announce
        self._switch = switch
        self._swarm_id = swarm_id
        self._dialled: dict[PeerId, float] = {}
        self._dials = 0
        self._tasks: trio.Nursery | None = None
        self._mapping: PortMapping | None = None

    def mapped(self) -> list[TcpAddress]:
        """Where the router lets the internet in."""
        address = self._mapping.address if self._mapping else None
        return [address] if address else []

    def moved(self) -> None:
        """Another network has another router."""
        if self._mapping is not None:
            self._mapping.moved()

    async def open_router(self) -> None:
        """Have the router let the port in, and announce where, until cancelled."""
        port = self._port()
        if port is None:
            return
        self._mapping = PortMapping(port, self._private_hosts, changed=self._announce)
        self._switch.elsewhere.append(self.mapped)
        await self._mapping.run()

    async def meet(self) -> None:
        """Tell the LAN of this node and dial the members that are heard of, until cancelled."""
        port = self._port()
        if port is None:
            return
        lan = Lan(self._swarm_id, self._switch.own, port, self._interfaces, self._found)
        async with trio.open_nursery() as self._tasks:
            await lan.run()

    def _found(self, neighbour: PeerAddress) -> None:
        """An address to try, no more: whether the peer is a member shows at the gate."""
        self._switch.book.learn(neighbour.peer, neighbour.addresses)
        now = trio.current_time()
        self._dialled = {peer: at for peer, at in self._dialled.items() if now - at < DIAL_AGAIN_S}
        known = neighbour.peer in self._dialled or self._switch.connected(neighbour.peer)
        busy = self._dials >= MAX_DIALS or len(self._dialled) >= MAX_NOTED
        if self._tasks and not known and not busy and len(self._switch.peers()) < ENOUGH_PEERS:
            self._dialled[neighbour.peer] = now
            self._tasks.start_soon(self._dial, neighbour)

    async def _dial(self, neighbour: PeerAddress) -> None:
        self._dials += 1
        with suppress(TetherError):
            await self._switch.connect(neighbour)
        self._dials -= 1

    def _port(self) -> int | None:
        """None: nothing listens where a LAN could reach it."""
        outward = [address for address in self._switch.bound() if _outward(address)]
        return outward[0].port if outward else None

    def _interfaces(self) -> frozenset[Interface]:
        return lans(self._switch.bound())

    def _private_hosts(self) -> list[str]:
        """Where a router may be in the way; none on a machine that has a public address of its own."""
        found = self._interfaces()
        return [one.host for one in found] if all(one.private for one in found) else []


def _outward(address: TcpAddress) -> bool:
    return address.family == "ip4" and address.ip is not None and not address.ip.is_loopback
