"""Protobufs behind their length, as libp2p's protocols frame them: bounded before a byte is kept."""

from __future__ import annotations

from typing import Final

from p2p.errors import FRAME_INVALID, FRAME_TOO_LARGE, TetherError
from p2p.transport import Stream

READ_BYTES: Final = 65_536


def framed(message: bytes) -> bytes:
    """A protobuf behind its length as a varint, as all of libp2p's protocols send it."""
    prefix, rest = bytearray(), len(message)
    while rest >= 0x80:
        prefix.append(rest & 0x7F | 0x80)
        rest >>= 7
    prefix.append(rest)
    return bytes(prefix) + message


class Frames:
    """Reads what `framed` writes, one read of the stream for many small frames."""

    def __init__(self, stream: Stream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    async def one(self) -> bytes:
        """The next frame. Raises TetherError: FRAME_TOO_LARGE before it is read, FRAME_INVALID, or UNREACHABLE."""
        frame = await self.next()
        if frame is None:
            raise TetherError(FRAME_INVALID, "The stream ended before an answer.")
        return frame

    async def next(self) -> bytes | None:
        """The next frame, or None where the stream ends between two. Raises like one."""
        length = shift = 0
        while True:
            byte = await self._byte(first=shift == 0)
            if byte is None:
                return None
            length |= (byte & 0x7F) << shift
            shift += 7
            if length > self._max_bytes:
                raise TetherError(FRAME_TOO_LARGE, f"A frame of {length} bytes is over {self._max_bytes}.")
            if byte < 0x80:
                break
            if shift > 28:
                raise TetherError(FRAME_INVALID, "A frame's length does not end.")
        while len(self._buffer) < length:
            await self._more()
        frame = bytes(self._buffer[:length])
        del self._buffer[:length]
        return frame

    def rest(self) -> bytes:
        """What came behind the last frame, for whoever reads the stream from here on."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    async def _byte(self, *, first: bool) -> int | None:
        if not self._buffer:
            data = await self._stream.read(READ_BYTES)
            if not data:
                if first:
                    return None
                raise TetherError(FRAME_INVALID, "The stream ended within a frame.")
            self._buffer += data
        return self._buffer.pop(0)

    async def _more(self) -> None:
        data = await self._stream.read(READ_BYTES)
        if not data:
            raise TetherError(FRAME_INVALID, "The stream ended within a frame.")
        self._buffer += data
