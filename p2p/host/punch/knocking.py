"""Dialling through routers: from the listening port, again and again for a moment, until the other side's dial is met.

Both sides' dials become one TCP connection (RFC 9293, simultaneous open): each router takes the other side's SYN for
the answer to its own. Who of the two is the client of what is spoken on it was agreed before.
"""

from __future__ import annotations

from typing import Final

import trio

from p2p.errors import TetherError
from p2p.host.addresses import TcpAddress
from p2p.host.sockets import connect_from, connect_tcp
from p2p.host.switch import Switch
from p2p.identity import PeerId

KNOCK_S: Final = 4.0
"""The kernel repeats a lost SYN after 1 s and after 3 s."""
AGAIN_S: Final = 0.15
"""After a router or a host refused: the other side's dial was not under way yet."""
STRANGER_S: Final = 0.4
"""Before the server also dials as anybody would, from a port of its own: a router that lets all in does not need more,
and a dial that its listener takes would have nobody to be the client."""


class Knocking:
    """One attempt at one peer; whatever succeeds first stands. client: this side's part in what is spoken."""

    def __init__(self, switch: Switch, peer: PeerId, tasks: trio.Nursery, *, client: bool) -> None:
        self._switch = switch
        self._peer = peer
        self._tasks = tasks
        self._client = client
        self._turn = trio.Lock()

    @property
    def direct(self) -> bool:
        path = self._switch.path(self._peer)
        return path is not None and path.relay is None

    async def run(self, targets: tuple[TcpAddress, ...]) -> bool:
        """Whether the peer is connected directly in the end."""
        with trio.move_on_after(KNOCK_S):
            async with trio.open_nursery() as nursery:
                for target in targets:
                    nursery.start_soon(self._knock, target)
                    if not self._client:
                        nursery.start_soon(self._dial, target, STRANGER_S)
                await self.until_direct()
                nursery.cancel_scope.cancel()
        return self.direct

    async def until_direct(self) -> None:
        while not self.direct:
            await self._switch.news.park()

    async def dial(self, targets: tuple[TcpAddress, ...]) -> None:
        """Where the peer says that strangers may dial it."""
        async with trio.open_nursery() as nursery:
            for target in targets:
                nursery.start_soon(self._dial, target, 0.0)

    async def _dial(self, target: TcpAddress, pause_s: float) -> None:
        await trio.sleep(pause_s)
        try:
            await self._introduce(await connect_tcp(target), str(target))
        except (OSError, TetherError):
            return

    async def _knock(self, target: TcpAddress) -> None:
        source = self._switch.ways.port(target.family)
        while source is not None:
            try:
                raw = await connect_from(source, target)
                if not self._client:
                    self._tasks.start_soon(self._switch.accept, raw)
                    return
                await self._introduce(raw, "")
                return
            except (OSError, TetherError):
                await trio.sleep(AGAIN_S)

    async def _introduce(self, raw: trio.SocketStream, address: str) -> None:
        """One at a time, and none once there is a direct connection."""
        try:
            await self._turn.acquire()
        except BaseException:
            await trio.aclose_forcefully(raw)
            raise
        try:
            if self.direct:
                await trio.aclose_forcefully(raw)
            else:
                await self._switch.introduce(self._peer, address, raw)
        finally:
            self._turn.release()
