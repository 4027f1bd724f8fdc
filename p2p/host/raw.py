"""The pipe beneath a connection: any trio stream, and for a TCP socket the shortest way in and out of the kernel.

A socket is written to from whoever has something to say, without waiting and without a task switch; only what the
kernel does not take at once waits. Few bytes may wait there unsent, so that what is urgent is never far behind.
"""

from __future__ import annotations

import os
import socket
from abc import abstractmethod
from typing import Final, Protocol

import trio

from p2p.identity import PeerId

UNSENT_BYTES: Final = 64 * 1024
"""What the kernel keeps that is not yet on its way: about one Noise message."""
_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", None)


class Raw(Protocol):
    """Both raise OSError or trio's Broken and ClosedResourceError."""

    def send_now(self, data: memoryview) -> int:
        """Send without waiting; the bytes that went out, which may be none."""
        ...

    async def send(self, data: bytes) -> None: ...

    async def receive(self, room: memoryview) -> int:
        """Wait for bytes and put them into room; 0 at the end. No other task runs between that and the return."""
        ...

    async def send_eof(self) -> None:
        """Nothing follows, if the pipe can say so."""
        ...

    async def close(self) -> None:
        """At once, without a word."""
        ...


class SocketRaw:
    """Implements `Raw` on the descriptor itself: trio's own send and receive yield to the scheduler each time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._descriptor = stream.socket.fileno()
        self._more: bool | None = None
        """Whether bytes wait there, by the last receive; None: nothing was received yet, and some may well be there."""
        if _NOTSENT_LOWAT is not None:
            stream.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT_BYTES)

    def send_now(self, data: memoryview) -> int:
        if self._descriptor < 0:
            raise trio.ClosedResourceError
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0

    async def send(self, data: bytes) -> None:
        rest = memoryview(data)
        rest = rest[self.send_now(rest) :]
        while rest:
            await trio.lowlevel.wait_writable(self._descriptor)
            rest = rest[self.send_now(rest) :]

    async def receive(self, room: memoryview) -> int:
        if self._more:
            await trio.lowlevel.checkpoint()
        while True:
            if self._descriptor < 0:
                raise trio.ClosedResourceError
            if self._more is False:
                await trio.lowlevel.wait_readable(self._descriptor)
            try:
                received = os.readv(self._descriptor, [room])
            except BlockingIOError:
                self._more = False
                continue
            self._more = received == len(room)
            return received

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def close(self) -> None:
        self._descriptor = -1
        await trio.aclose_forcefully(self._stream)


class StreamRaw:
    """Implements `Raw` on any other stream of trio's."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    def send_now(self, data: memoryview) -> int:
        return 0

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def receive(self, room: memoryview) -> int:
        data = await self._stream.receive_some(len(room))
        room[: len(data)] = data
        return len(data)

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


class Carried(trio.abc.AsyncResource):
    """A pipe that another node passes on."""

    @property
    @abstractmethod
    def relay(self) -> PeerId: ...

    @property
    @abstractmethod
    def origin(self) -> str:
        """Who is to blame for what comes over it before it has proven who it is."""

    @property
    @abstractmethod
    def raw(self) -> Raw: ...


Pipe = trio.abc.Stream | Carried
"""What may be beneath a connection."""


def raw_of(stream: Pipe) -> Raw:
    if isinstance(stream, Carried):
        return stream.raw
    return SocketRaw(stream) if isinstance(stream, trio.SocketStream) else StreamRaw(stream)
