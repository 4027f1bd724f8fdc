"""One stream's state: what it may send, what it keeps for its reader, which of its two directions have ended.

               ┌── finish ──> closed by us ─── FIN ──┐
SYN ──> open ──┤                                     ├──> over, once the reader has taken what came
               └── FIN ─────> closed by them ─ finish┘
  any of them ── RST, from either side ──> over at once, what was not read is dropped
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from p2p.host.yamux.frames import INITIAL_WINDOW

OWN_CHUNK_BYTES: Final = 4096
"""Payloads below this are kept together: one object for each byte of a window would take fifty times its size."""
JOINED_BYTES: Final = 64 * 1024


class Flow:
    """Read by the shell, changed by its `Session` alone. changed: called when a waiting reader or writer may go on."""

    __slots__ = (
        "_head",
        "buffered",
        "changed",
        "chunks",
        "extra",
        "fin_got",
        "fin_sent",
        "fin_wanted",
        "id",
        "offer",
        "owed",
        "priority",
        "queued",
        "receive_left",
        "reset",
        "send_left",
    )

    def __init__(self, stream_id: int, priority: int, extra: int) -> None:
        """extra: by what the window exceeds the protocol's first one."""
        self.id = stream_id
        self.priority = priority
        self.extra = extra
        self.send_left = INITIAL_WINDOW
        self.receive_left = INITIAL_WINDOW + extra
        self.owed = 0
        """Read, and not yet told the peer."""
        self.chunks: deque[bytes | bytearray] = deque()
        self.buffered = 0
        self._head = 0
        self.offer: memoryview | None = None
        """What a writer waits to see sent."""
        self.queued = False
        self.fin_wanted = self.fin_sent = self.fin_got = self.reset = False
        self.changed: Callable[[], None] = _nobody

    @property
    def window(self) -> int:
        return INITIAL_WINDOW + self.extra

    @property
    def pending(self) -> bool:
        """Whether a writer waits."""
        return self.offer is not None

    @property
    def over(self) -> bool:
        return (self.reset or (self.fin_sent and self.fin_got)) and not self.buffered

    def arrived(self, payload: memoryview) -> None:
        chunks = self.chunks
        size = len(payload)
        self.buffered += size
        if size >= OWN_CHUNK_BYTES or not chunks:
            chunks.append(bytes(payload))
            return
        last = chunks[-1]
        if type(last) is bytearray and len(last) < JOINED_BYTES:
            last += payload
        else:
            chunks.append(bytearray(payload))

    def take(self, max_bytes: int) -> bytes:
        """1 to max_bytes bytes of what is buffered."""
        chunk = self.chunks[0]
        head = self._head
        if len(chunk) - head <= max_bytes:
            self.chunks.popleft()
            self._head = 0
            data = bytes(chunk[head:]) if head else bytes(chunk)
        else:
            data = bytes(chunk[head : head + max_bytes])
            self._head = head + max_bytes
        self.buffered -= len(data)
        return data

    def drop(self) -> None:
        self.chunks.clear()
        self.buffered = self._head = 0


def _nobody() -> None:
    """Nobody waits yet."""
