"""The shell: a socket for each interface, questions and announcements at their times, and who is heard.

Over IPv4 alone: a machine that has only IPv6 is found by the ticket and the DHT.
"""

from __future__ import annotations

import ipaddress
import random
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Final

import structlog
import trio

from p2p.host.interfaces import Interface
from p2p.host.mdns.service import Service
from p2p.identity import PeerId
from p2p.membership import SwarmId
from p2p.transport import PeerAddress

GROUP: Final = "224.0.0.251"
PORT: Final = 5353
MAX_BYTES: Final = 9_000
"""RFC 6762, section 17."""
HELLO_S: Final = (0.0, 1.0, 3.0)
"""After an interface is new: told and asked at once, and twice again, for UDP may lose one."""
TELL_EVERY_S: Final = 300.0
LOOK_S: Final = 5.0
"""How often the interfaces are looked at: a laptop in a new network is found this soon."""
ANSWER_DELAY_S: Final = (0.02, 0.12)
"""So that a LAN full of nodes does not answer in one burst (RFC 6762, section 6)."""
QUIET_S: Final = 1.0
"""After telling: whoever asks again has heard it (same section)."""
HEARD_PER_S: Final = 50.0
"""Datagrams that an interface is read for; a flood of more is dropped by the kernel."""
_IP_MULTICAST_ALL: Final = 49
"""ip(7), which Python does not name: 0 delivers only from the interface that joined."""

_log = structlog.get_logger()


@dataclass
class _Spoken:
    """One interface in use."""

    interface: Interface
    udp: trio.socket.SocketType
    told_at: float = float("-inf")


class Lan:
    """interfaces: those that this node listens on now; port: where; found: called for each member that is heard of."""

    def __init__(
        self,
        swarm_id: SwarmId,
        own: PeerId,
        port: int,
        interfaces: Callable[[], frozenset[Interface]],
        found: Callable[[PeerAddress], None],
    ) -> None:
        self._service = Service(swarm_id, own, secrets.token_hex(16))
        self._port = port
        self._interfaces = interfaces
        self._found = found

    async def run(self) -> None:
        """Tell, ask and hear until cancelled; follow the interfaces as they come and go."""
        spoken: dict[Interface, trio.CancelScope] = {}
        async with trio.open_nursery() as nursery:
            while True:
                now = self._interfaces()
                for gone in spoken.keys() - now:
                    spoken.pop(gone).cancel()
                for new in now - spoken.keys():
                    try:
                        udp = await _join(new)
                    except OSError as error:  # it is not quite up; the next look tries again
                        _log.debug("mdns.silent", address=new.host, detail=error.strerror)
                        continue
                    spoken[new] = trio.CancelScope()
                    nursery.start_soon(self._speak, _Spoken(new, udp), spoken[new])
                await trio.sleep(LOOK_S)

    async def _speak(self, one: _Spoken, scope: trio.CancelScope) -> None:
        with one.udp, scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, one, nursery)
                for pause_s in chain(HELLO_S, _every(TELL_EVERY_S)):
                    await trio.sleep(pause_s)
                    await self._send(one, self._service.question())
                    await self._tell(one)

    async def _hear(self, one: _Spoken, nursery: trio.Nursery) -> None:
        network = ipaddress.ip_network(f"{one.interface.host}/{one.interface.prefix}", strict=False)
        while True:
            try:
                data, (source, _) = await one.udp.recvfrom(MAX_BYTES)
            except OSError:  # an ICMP error of what was sent before
                await trio.sleep(1 / HEARD_PER_S)
                continue
            if ipaddress.ip_address(source) in network:
                heard = self._service.hear(data, source)
                if heard.asked and trio.current_time() - one.told_at > QUIET_S:
                    one.told_at = trio.current_time()
                    nursery.start_soon(partial(self._tell, one, delay_s=random.uniform(*ANSWER_DELAY_S)))
                for peer in heard.peers:
                    self._found(peer)
            await trio.sleep(1 / HEARD_PER_S)

    async def _tell(self, one: _Spoken, delay_s: float = 0.0) -> None:
        one.told_at = trio.current_time()
        await trio.sleep(delay_s)
        await self._send(one, self._service.announcement(one.interface.host, self._port))

    async def _send(self, one: _Spoken, data: bytes) -> None:
        try:
            await one.udp.sendto(data, (GROUP, PORT))
        except OSError:  # the cable is out; it is told again when there is one
            await trio.lowlevel.checkpoint()


def _every(interval_s: float) -> Iterator[float]:
    while True:
        yield interval_s * random.uniform(0.8, 1.2)


async def _join(interface: Interface) -> trio.socket.SocketType:
    """Share the port with others of this machine. Raises OSError."""
    udp = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        here = socket.inet_aton(interface.host)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        udp.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + here)
        await udp.bind(("", PORT))
    except BaseException:
        udp.close()
        raise
    return udp
