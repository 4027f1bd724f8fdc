"""A machine that moves: its addresses come and go, and the node goes on without a restart.

addresses of interfaces, looked at now and then
    changed: connections from an address that is gone end at once, their peers are dialled from the new one
    what others should dial changed: they are told
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

import structlog
import trio

from p2p.errors import TetherError
from p2p.host.addresses import IpAddress
from p2p.host.interfaces import own_ips
from p2p.host.switch import Switch
from p2p.identity import PeerId
from p2p.transport import PeerAddress

LOOK_S: Final = 2.0
"""Between two looks at the interfaces: 0.3 ms of work each."""
MAX_DIALS: Final = 8
"""At a time, after a move."""
PAUSES_S: Final = (0.1, 1.0, 2.0, 4.0, 6.0)
"""Before each try of such a dial: as long as calls wait for it, and not all of a crowd that moves in one moment."""

_log = structlog.get_logger()


class Roaming:
    """moved: called when this machine lost the address that it used; announced: when those that others dial changed."""

    def __init__(self, switch: Switch, look: Callable[[], tuple[IpAddress, ...]] = own_ips) -> None:
        self.moved: list[Callable[[], None]] = []
        self.announced: list[Callable[[], None]] = []
        self._switch = switch
        self._look = look
        self._ips = look()
        self._gone: set[str] = set()
        self._news = trio.Event()
        self._dials = trio.Semaphore(MAX_DIALS)
        switch.ips = lambda: self._ips

    def look_again(self) -> None:
        """Something besides the interfaces changed what others should dial."""
        self._news.set()

    async def run(self) -> None:
        told = self._switch.addresses()
        async with trio.open_nursery() as nursery:
            while True:
                with trio.move_on_after(LOOK_S):
                    await self._news.wait()
                self._news = trio.Event()
                found = self._look()
                if set(found) != set(self._ips):
                    await self._move(found, nursery)
                addresses = self._switch.addresses()
                if addresses != told:
                    told = addresses
                    _log.info("addresses", announced=list(addresses))
                    for tell in self.announced:
                        tell()

    async def _move(self, found: tuple[IpAddress, ...], nursery: trio.Nursery) -> None:
        """Connections wait while there is no address at all: the old one may come back.

        An interface that came, or went with no connection on it (a container's, a VPN's), is no move.
        """
        self._gone |= {str(ip) for ip in self._ips}
        self._gone -= {str(ip) for ip in found}
        self._ips = found
        if all(ip.is_loopback for ip in found):
            return
        gone, self._gone = self._gone, set()
        lost = await self._switch.abandon(gone)
        if gone and (lost or not self._switch.peers()):
            _log.info("moved", lost=len(lost))
            for tell in self.moved:
                tell()
            self._redial(lost, nursery)

    def _redial(self, lost: Iterable[PeerId], nursery: trio.Nursery) -> None:
        """Whoever called this node waits for it, and knows no address to dial."""
        for peer in lost:
            nursery.start_soon(self._dial, peer)

    async def _dial(self, peer: PeerId) -> None:
        for pause_s in PAUSES_S:
            await trio.sleep(pause_s * random.uniform(0.5, 1.5))
            async with self._dials:
                try:
                    await self._switch.connect(PeerAddress(peer))
                    return
                except TetherError as error:
                    _log.debug("not reached from the new address", peer=peer, detail=error.detail)
