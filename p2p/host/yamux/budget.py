"""How much a peer may have on its way to this node unread, over all streams of a connection and all connections.

A window is a promise to keep that many bytes. The protocol promises 256 KiB for each stream that is let in; whatever
a window grows by comes out of what is left here, in shares that shrink with it, so that a first stream is fast, the
eighth still gets something, and the promises never exceed the whole.
"""

from __future__ import annotations

from typing import Final

from p2p.host.yamux.frames import INITIAL_WINDOW

MAX_STREAMS: Final = 128
"""Open at a time on one connection, from both sides together; rpc needs a handful, the DHT a few a lookup."""
MAX_WINDOW: Final = 4 << 20
"""One stream's: 40 ms at 100 MB/s, and what bulk needs across an ocean at 40 MB/s."""
GROWTH_BYTES: Final = 16 << 20
"""What one connection's windows may grow by: with the streams' first windows 48 MiB is all that it ever holds."""
HOST_GROWTH_BYTES: Final = 256 << 20
"""The same for all connections of a host."""
SHARE: Final = 4
"""A window grows by at most a quarter of what is left."""
WORTH_BYTES: Final = 64 * 1024
"""A share below this is not worth its bookkeeping."""

CONNECTION_BYTES: Final = MAX_STREAMS * INITIAL_WINDOW + GROWTH_BYTES


class Budget:
    """What is left to grow by; parent: that of the whole host."""

    def __init__(self, total_bytes: int, parent: Budget | None = None) -> None:
        self.left = total_bytes
        self._parent = parent

    def grow(self, wanted: int) -> int:
        """Take a share of at most wanted, which may be nothing."""
        share = min(wanted, self.left // SHARE)
        if self._parent is not None:
            share = min(share, self._parent.left // SHARE)
        if share < min(wanted, WORTH_BYTES):
            return 0
        self._move(-share)
        return share

    def give_back(self, share: int) -> None:
        self._move(share)

    def _move(self, amount: int) -> None:
        self.left += amount
        if self._parent is not None:
            self._parent.left += amount
