"""The connections that stand: one a peer, told to whoever watches, kept alive, let go when there are too many."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Final

import structlog
import trio

from p2p.host.audience import Audience
from p2p.host.connection import Connection
from p2p.host.idle import Held, let_go
from p2p.host.settings import HostSettings
from p2p.identity import PeerId
from p2p.transport import LastUse

DRAIN_S: Final = 5.0
"""For the streams of a relayed connection, once there is a direct one."""

_log = structlog.get_logger()


class Registry:
    """`run` keeps it; guests have connections too, but are no peers and nobody is told of them."""

    def __init__(self, settings: HostSettings, idle_connections: Callable[[], int]) -> None:
        self.audience = Audience()
        self.uses: list[LastUse] = []
        self.broke: list[Callable[[PeerId], None]] = []
        """Called for a peer whose connection ended without a goodbye of either side."""
        self.news = trio.lowlevel.ParkingLot()
        """Woken when a connection was entered; the switch wakes it, too, when one was refused."""
        self._settings = settings
        self._idle_connections = idle_connections
        self._standing: dict[PeerId, Connection] = {}

    def __len__(self) -> int:
        return len(self._standing)

    def all(self) -> list[Connection]:
        return list(self._standing.values())

    def of(self, peer: PeerId) -> Connection | None:
        return self._standing.get(peer)

    def peers(self) -> frozenset[PeerId]:
        return frozenset(peer for peer, connection in self._standing.items() if not connection.guest)

    def connected(self, peer: PeerId) -> bool:
        connection = self._standing.get(peer)
        return connection is not None and connection.open

    def enter(self, connection: Connection, tasks: trio.Nursery) -> None:
        """Register a connection, in place of an older one of the same peer."""
        peer = connection.peer
        older = self._standing.get(peer)
        if older is not None:
            older.dismissed = True
            self.forget(older)
            upgraded = older.path.relay is not None and connection.path.relay is None
            tasks.start_soon(self._drain, older, DRAIN_S if upgraded else 0.0)
        self._standing[peer] = connection
        self.news.unpark_all()
        if not connection.guest:
            self.audience.up(peer, tasks)

    async def _drain(self, older: Connection, patience_s: float) -> None:
        """Let its streams come to their ends; calls have moved already."""
        with trio.move_on_after(patience_s):
            while older.open and older.muxer.session.flows:  # noqa: ASYNC110 the session is pure: it has no events
                await trio.sleep(DRAIN_S / 50)
        await older.close()

    def forget(self, connection: Connection) -> None:
        """Nothing happens where another has taken its place."""
        if self._standing.get(connection.peer) is connection:
            del self._standing[connection.peer]
            if not connection.guest:
                self.audience.down(connection.peer)
                if not connection.parted:
                    for tell in self.broke:
                        tell(connection.peer)

    async def part(self, peer: PeerId) -> None:
        """Say goodbye, if there is anyone."""
        connection = self._standing.get(peer)
        if connection is None:
            await trio.lowlevel.checkpoint()
            return
        connection.dismissed = True
        self.forget(connection)
        await connection.close()

    async def abandon(self, hosts: Container[str]) -> list[PeerId]:
        """End the connections from these addresses of this machine, which are gone. Returns the members lost."""
        lost = []
        for connection in self.all():
            local = connection.path.local
            if local is not None and local.host in hosts:
                self.forget(connection)
                await connection.muxer.abandon()
                lost += [] if connection.guest else [connection.peer]
        return lost

    async def part_from_all(self) -> None:
        """What was just written still arrives: relayed connections part before those that carry them."""
        for relayed in (True, False):
            async with trio.open_nursery() as nursery:
                for connection in self.all():
                    if (connection.path.relay is not None) is relayed:
                        nursery.start_soon(connection.close)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_alive)
            nursery.start_soon(self._keep_budget)

    async def _keep_alive(self) -> None:
        patience_s = self._settings.silence_s
        while True:
            await trio.sleep(patience_s / 4)
            for connection in self.all():
                connection.muxer.keep_alive(trio.current_time(), patience_s)

    async def _keep_budget(self) -> None:
        """Part from those that were used longest ago while there are too many."""
        while True:
            await trio.sleep(self._settings.idle_check_s)
            budget = self._idle_connections()
            if len(self) > budget:
                carriers = {connection.path.relay for connection in self.all()}
                held = [self._held(one) for one in self.all() if not one.guest and one.peer not in carriers]
                for peer in let_go(held, budget, trio.current_time()):
                    _log.debug("idle connection let go", peer=peer)
                    await self.part(peer)

    def _held(self, connection: Connection) -> Held:
        uses = (use(connection.peer) for use in self.uses)
        return Held(connection.peer, connection.born, max(connection.used, connection.born, *uses))
