"""Two streams back to back inside one process: the loopback of rpc, and what `MemoryNetwork` is made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from p2p.errors import UNREACHABLE, TetherError
from p2p.identity import PeerId
from p2p.transport import CONTROL

PIPE_BYTES: Final = 256 * 1024
"""What one direction holds before its writer waits: about what a TCP connection on a LAN keeps in flight."""


class _Lane:
    """One direction. Bytes become readable delay_s() after they were written, in order."""

    def __init__(self, capacity_bytes: int, delay_s: Callable[[], float]) -> None:
        self._capacity_bytes = capacity_bytes
        self._delay_s = delay_s
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._closed = False
        self._broken: str | None = None
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def ended(self) -> bool:
        return bool(self._broken) or (self._closed and not self._chunks)

    async def read(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            self._check()
            if self._chunks:
                ready_at, chunk = self._chunks[0]
                if ready_at <= trio.current_time():
                    break
                with trio.move_on_at(ready_at):
                    await self._changed.park()
            elif self._closed:
                return b""
            else:
                await self._changed.park()
        self._chunks.popleft()
        if len(chunk) > max_bytes:
            self._chunks.appendleft((ready_at, chunk[max_bytes:]))
        self._held_bytes -= min(len(chunk), max_bytes)
        self._changed.unpark_all()
        return chunk[:max_bytes]

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            self._check()
            if self._closed:
                raise TetherError(UNREACHABLE, "The stream is closed on this side.")
            room = self._capacity_bytes - self._held_bytes
            if room <= 0:
                await self._changed.park()
                continue
            self._chunks.append((trio.current_time() + self._delay_s(), bytes(rest[:room])))
            self._held_bytes += len(rest[:room])
            rest = rest[room:]
            self._changed.unpark_all()

    def write_now(self, data: bytes) -> bool:
        if self._broken or self._closed or self._held_bytes + len(data) > self._capacity_bytes:
            return False
        self._chunks.append((trio.current_time() + self._delay_s(), data))
        self._held_bytes += len(data)
        self._changed.unpark_all()
        return True

    def close(self) -> None:
        self._closed = True
        self._changed.unpark_all()

    def break_(self, why: str) -> None:
        self._broken = self._broken or why
        self._chunks.clear()
        self._changed.unpark_all()

    def _check(self) -> None:
        if self._broken:
            raise TetherError(UNREACHABLE, self._broken)


class PipeStream:
    """One end of a pipe; implements `Stream`. close ends this side's writing only, as libp2p does."""

    def __init__(self, peer: PeerId, incoming: _Lane, outgoing: _Lane) -> None:
        self.priority = CONTROL
        self._peer = peer
        self._incoming = incoming
        self._outgoing = outgoing

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def ended(self) -> bool:
        """Whether nothing will pass in either direction any more."""
        return self._incoming.ended and self._outgoing.ended

    async def read(self, max_bytes: int) -> bytes:
        return await self._incoming.read(max_bytes)

    async def feed(self, sink: Callable[[bytes], None]) -> None:
        while data := await self.read(PIPE_BYTES):
            sink(data)

    async def write(self, data: bytes) -> None:
        await self._outgoing.write(data)

    def write_now(self, data: bytes) -> bool:
        return self._outgoing.write_now(data)

    async def close(self) -> None:
        self._outgoing.close()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        self.break_("The stream was reset.")
        await trio.lowlevel.checkpoint()

    def break_(self, why: str) -> None:
        """Break both directions at once, as a lost connection does: what was in flight is gone."""
        self._incoming.break_(why)
        self._outgoing.break_(why)


def pipe(
    left: PeerId,
    right: PeerId,
    *,
    capacity_bytes: int = PIPE_BYTES,
    delay_s: Callable[[], float] = lambda: 0.0,
) -> tuple[PipeStream, PipeStream]:
    """Make both ends: the first is left's, whose peer is right. delay_s: one way, asked at each write."""
    to_right, to_left = _Lane(capacity_bytes, delay_s), _Lane(capacity_bytes, delay_s)
    return PipeStream(right, to_left, to_right), PipeStream(left, to_right, to_left)
