"""A limit on bytes a second that many senders share."""

from __future__ import annotations

import trio


class Rate:
    """bytes_per_s: None for no limit. Senders take turns in the order in which they came."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_s = 0.0

    async def spend(self, count: int) -> None:
        """Wait until so many bytes may go."""
        if self._bytes_per_s is None:
            return
        begin_s = max(self._free_s, trio.current_time())
        self._free_s = begin_s + count / self._bytes_per_s
        await trio.sleep_until(begin_s)
