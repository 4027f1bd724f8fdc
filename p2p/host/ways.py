"""How a dial makes its pipe: over TCP, from the listening port where a router is in the way, or through a relay."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence

from p2p.host.addresses import CircuitAddress, IpAddress, TcpAddress, is_circuit, parse, parse_circuit
from p2p.host.raw import Pipe
from p2p.host.sockets import connect_tcp
from p2p.identity import PeerId

Through = Callable[[CircuitAddress, PeerId], Awaitable[Pipe]]
"""Open a circuit to a peer through a relay. Raises OSError."""


class Ways:
    """bound: where this node listens. ips: of its interfaces. through: set by whoever can."""

    def __init__(
        self, bound: Callable[[], Sequence[TcpAddress]], ips: Callable[[], Sequence[IpAddress]]
    ) -> None:
        self.through: Through | None = None
        self._bound = bound
        self._ips = ips

    async def pipe(self, peer: PeerId, address: str) -> Pipe:
        """Raises OSError."""
        if not is_circuit(address):
            target = parse(address)
            return await connect_tcp(target, self._source(target))
        if self.through is None:
            raise OSError(errno.EHOSTUNREACH, "this node uses no relays")
        return await self.through(parse_circuit(address), peer)

    def port(self, family: str) -> TcpAddress | None:
        """The first address of a family that this node listens on for others than itself."""
        for address in self._bound():
            if address.family == family and address.ip is not None and not address.ip.is_loopback:
                return address
        return None

    def _source(self, target: TcpAddress) -> TcpAddress | None:
        """Behind a router, the listening address: so its mapping of that port is kept, and seen by peers.

        Never between machines with public addresses: should both dial at once from the ports that the other dials,
        TCP would make one connection of the two dials, with nobody to answer.
        """
        if target.ip is None or not target.ip.is_global:
            return None
        if any(ip.is_global and ip.version == target.ip.version for ip in self._ips()):
            return None
        return self.port(target.family)
