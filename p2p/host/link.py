"""A secured pipe: plain text in and out, Noise messages on the wire.

Sealing and opening happen in buffers that all connections of a thread share: what they hold is used up before
anything else runs, so an idle connection keeps nothing but its keys.
"""

from __future__ import annotations

import threading
from typing import Final

from p2p.host.noise.transport import (
    LENGTH_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_PLAIN_BYTES,
    Opener,
    Sealer,
    sealed_size,
)
from p2p.host.raw import Raw

RECEIVE_BYTES: Final = 256 * 1024
"""One receive; all that is whole in it is opened and parsed in one go."""
_HEAD_BYTES: Final = LENGTH_BYTES + MAX_MESSAGE_BYTES


class _Buffers(threading.local):
    """received: room for the start of a message from last time, then for what comes."""

    def __init__(self) -> None:
        self.received = memoryview(bytearray(_HEAD_BYTES + RECEIVE_BYTES))
        self.opened = memoryview(bytearray(_HEAD_BYTES + RECEIVE_BYTES))
        self.plain = memoryview(bytearray(MAX_PLAIN_BYTES))
        self.sealed = memoryview(bytearray(sealed_size(MAX_PLAIN_BYTES)))


_BUFFERS: Final = _Buffers()


class Link:
    """ahead: what came behind the last message of the handshake. unsent: what goes out with the first `send`."""

    def __init__(
        self, raw: Raw, sealer: Sealer, opener: Opener, *, ahead: bytes = b"", unsent: bytes = b""
    ) -> None:
        self._raw = raw
        self._sealer = sealer
        self._opener = opener
        self._partial = ahead
        self._unsent = unsent

    @property
    def blocked(self) -> bool:
        """Whether something is sealed and does not go out yet; then nothing else may be sent before `drain`."""
        return bool(self._unsent)

    @property
    def room(self) -> memoryview:
        """Where to put what `send_now` shall send: one Noise message's worth."""
        return _BUFFERS.plain

    def send_now(self, count: int) -> None:
        """Seal the first count bytes of room, and send what the pipe takes. Raises BROKEN and PeerFault."""
        wire = self._sealed(count)
        sent = self._raw.send_now(wire)
        if sent < len(wire):
            self._unsent = bytes(wire[sent:])

    async def send(self, data: bytes) -> None:
        """Seal and send all of data, which may take as long as the pipe does. Raises as send_now."""
        for at in range(0, len(data), MAX_PLAIN_BYTES):
            part = data[at : at + MAX_PLAIN_BYTES]
            self.room[: len(part)] = part
            self._unsent += self._sealed(len(part))
            await self.drain()

    def _sealed(self, count: int) -> memoryview:
        size = self._sealer.seal(_BUFFERS.plain[:count], _BUFFERS.sealed)
        return _BUFFERS.sealed[:size]

    async def drain(self) -> None:
        """Send what is left. Raises BROKEN."""
        if self._unsent:
            await self._raw.send(self._unsent)
            self._unsent = b""

    async def receive(self) -> memoryview:
        """At least one byte of plain text, none at the end; gone as soon as the caller awaits anything.

        Raises BROKEN and PeerFault.
        """
        buffers = _BUFFERS
        while True:
            if self.ready:
                count = 0
            else:
                count = await self._raw.receive(buffers.received[_HEAD_BYTES:])
                if not count:
                    return buffers.opened[:0]
            start = _HEAD_BYTES - len(self._partial)
            end = _HEAD_BYTES + count
            if self._partial:
                buffers.received[start:_HEAD_BYTES] = self._partial
            used, opened = self._opener.open(buffers.received[start:end], buffers.opened)
            self._partial = bytes(buffers.received[start + used : end])
            if opened:
                return buffers.opened[:opened]

    @property
    def ready(self) -> bool:
        """Whether a message is here: only right after a handshake, with whose last one the first may have come."""
        partial = self._partial
        return len(partial) >= LENGTH_BYTES and len(partial) >= LENGTH_BYTES + int.from_bytes(
            partial[:2], "big"
        )

    async def hang_up(self) -> None:
        """Send what is left, say that nothing follows, and wait for the peer to close: a reset would overtake it."""
        await self.drain()
        await self._raw.send_eof()
        while await self._raw.receive(_BUFFERS.received):
            pass

    async def close(self) -> None:
        await self._raw.close()
