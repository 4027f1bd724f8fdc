"""Frames: four bytes of length, big endian, then that many bytes. The limit is checked before anything is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from p2p.errors import FRAME_TOO_LARGE, TetherError
from p2p.transport import Stream

LENGTH_BYTES: Final = 4
READ_BYTES: Final = 64 * 1024
"""How much to ask a stream for at a time: one full yamux frame."""


def frame(body: bytes) -> bytes:
    """Put the length before the body."""
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameParser:
    """Cuts a stream of bytes into frames, however the bytes arrive. limit_bytes: of one body."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame that is not whole yet: never more than one frame and one read."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in and return the bodies that are whole now. Raises TetherError(FRAME_TOO_LARGE), for good."""
        self._buffer += data
        bodies = []
        start = 0
        while len(self._buffer) - start >= LENGTH_BYTES:
            size = int.from_bytes(self._buffer[start : start + LENGTH_BYTES], "big")
            if size > self._limit_bytes:
                detail = f"A frame of {size} bytes was announced; {self._limit_bytes} are allowed."
                raise TetherError(FRAME_TOO_LARGE, detail)
            end = start + LENGTH_BYTES + size
            if end > len(self._buffer):
                break
            bodies.append(bytes(self._buffer[start + LENGTH_BYTES : end]))
            start = end
        del self._buffer[:start]
        return bodies


class FrameReader:
    """Reads a stream frame by frame."""

    def __init__(self, stream: Stream, limit_bytes: int) -> None:
        self._stream = stream
        self._parser = FrameParser(limit_bytes)
        self._whole: list[bytes] = []

    async def one(self) -> bytes | None:
        """The next frame, or None at the end of the stream. Raises what the stream and the parser raise."""
        while not self._whole:
            data = await self._stream.read(READ_BYTES)
            if not data:
                return None
            self._whole = self._parser.feed(data)
        return self._whole.pop(0)

    async def feed(self, sink: Callable[[list[bytes]], None]) -> None:
        """Hand sink all frames that come, as many at a time as have arrived, until the end of the stream.

        Raises what the stream, the parser and sink raise.
        """

        def parsed(data: bytes) -> None:
            if bodies := self._parser.feed(data):
                sink(bodies)

        if self._whole:
            early, self._whole = self._whole, []
            sink(early)
        await self._stream.feed(parsed)

    async def some(self) -> list[bytes]:
        """All frames that have arrived, at least one; empty at the end of the stream."""
        first = await self.one()
        if first is None:
            return []
        rest, self._whole = self._whole, []
        return [first, *rest]
