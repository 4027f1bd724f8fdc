"""A TCP forwarder that keeps what passed, to count the messages of a handshake from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from p2p.host.addresses import parse

LENGTH_BYTES = 2


@dataclass
class Recorded:
    """address: where to dial instead; up: what the dialler sent, down: what the listener sent."""

    address: str
    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)


@asynccontextmanager
async def recorder(target: str) -> AsyncIterator[Recorded]:
    """Forward one address until the context is left."""
    behind = parse(target)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        recorded = Recorded(f"/ip4/127.0.0.1/tcp/{port}")

        async def serve(dialler: trio.SocketStream) -> None:
            listener = await trio.open_tcp_stream(behind.host, behind.port)
            async with listener, trio.open_nursery() as ways:
                ways.start_soon(_forward, dialler, listener, recorded.up)
                ways.start_soon(_forward, listener, dialler, recorded.down)

        nursery.start_soon(partial(trio.serve_listeners, serve, listeners))
        yield recorded
        nursery.cancel_scope.cancel()


async def _forward(one: trio.SocketStream, other: trio.SocketStream, seen: bytearray) -> None:
    try:
        async for data in one:
            seen += data
            await other.send_all(data)
        await other.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await other.aclose()


def noise_messages(sent: bytes, *, dialler: bool) -> list[int]:
    """The sizes of a side's handshake messages, behind the agreement on /noise: of XX's three two are the dialler's."""
    rest = memoryview(sent)
    for line in (b"/multistream/1.0.0\n", b"/noise\n"):
        assert bytes(rest[: 1 + len(line)]) == bytes([len(line)]) + line
        rest = rest[1 + len(line) :]
    sizes = []
    for _ in range(2 if dialler else 1):
        size = int.from_bytes(rest[:LENGTH_BYTES], "big")
        sizes.append(size)
        rest = rest[LENGTH_BYTES + size :]
    return sizes
