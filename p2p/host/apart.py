"""Connections beside the one that stands: somebody was asked to dial this node, or asks this one to dial.

Such a connection is made from a socket of its own, so that a router treats it like a stranger's; it carries one short
exchange and never becomes the peer's connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

from p2p.errors import TetherError
from p2p.host.addresses import TcpAddress
from p2p.host.connection import Connection, agree
from p2p.host.errors import HOSTILE_BYTES, PeerFault
from p2p.host.handshake import Gate
from p2p.host.paths import Path, path_of
from p2p.host.streams import MuxedStream, unreachable
from p2p.identity import PeerId

APART_S: Final = 10.0
"""For the whole exchange."""
MAX_APART: Final = 6
"""At a time of one peer: it is asked about no more addresses."""

ApartHandler = Callable[[MuxedStream, Connection], Awaitable[None]]


class Apart:
    """handlers: by protocol, spoken here and over no other connection."""

    def __init__(self, gate: Gate) -> None:
        self.handlers: dict[str, ApartHandler] = {}
        self._gate = gate
        self._awaited: Counter[PeerId] = Counter()
        self._carried: Counter[PeerId] = Counter()

    @contextmanager
    def awaiting(self, peer: PeerId) -> Iterator[None]:
        """Take a direct connection of this peer for one of this kind, while its other one stands."""
        self._awaited[peer] += 1
        try:
            yield
        finally:
            self._awaited[peer] -= 1
            if self._awaited[peer] <= 0:
                del self._awaited[peer]

    def awaits(self, peer: PeerId, path: Path) -> bool:
        return peer in self._awaited and path.relay is None and self._carried[peer] < MAX_APART

    async def carry(self, connection: Connection, offered: Iterable[str]) -> None:
        """Until it is over. offered: what is spoken over others; a peer that opens it here meant to reconnect."""

        async def serve(protocol: str, stream: MuxedStream) -> None:
            handler = self.handlers.get(protocol)
            try:
                if handler is not None:
                    await handler(stream, connection)
            finally:
                await stream.reset()
            if handler is None:
                self._awaited.pop(connection.peer, None)
                await connection.muxer.abandon()

        self._carried[connection.peer] += 1
        try:
            with trio.move_on_after(APART_S):
                async with trio.open_nursery() as nursery:
                    await connection.run({*offered, *self.handlers}, serve, nursery)
                    nursery.cancel_scope.cancel()
        except* PeerFault:  # it loses this connection, which it was about to lose anyway
            pass
        finally:
            self._carried[connection.peer] -= 1
            self._carried += Counter()
            with trio.CancelScope(shield=True):
                await connection.muxer.abandon()

    @asynccontextmanager
    async def dial(self, peer: PeerId, target: TcpAddress) -> AsyncIterator[Connection]:
        """Connect from a fresh socket. Raises OSError if nobody listens there, TetherError if it is not the peer."""
        raw = await trio.open_tcp_stream(target.host, target.port)
        try:
            connection = await agree(await self._gate.dial(raw, peer), outbound=True, path=path_of(raw))
        except HOSTILE_BYTES as error:
            await trio.aclose_forcefully(raw)
            raise unreachable(f"{peer} does not answer at {target} ({type(error).__name__}).") from error
        except BaseException:
            await trio.aclose_forcefully(raw)
            raise
        failure: TetherError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run, connection, nursery)
            try:
                yield connection
            except TetherError as error:
                failure = error
            finally:
                with trio.CancelScope(shield=True):
                    await connection.muxer.abandon()
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _run(self, connection: Connection, nursery: trio.Nursery) -> None:
        async def serve(protocol: str, stream: MuxedStream) -> None:
            await stream.reset()

        try:
            await connection.run((), serve, nursery)
        except PeerFault:
            await connection.muxer.abandon()
