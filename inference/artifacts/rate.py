"""A limit on bytes a second that many senders share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import trio

BESIDE_TOKENS_BYTES_PER_S: Final = 8e6
"""For each core, while this node generates: fetching or lending a byte takes some 3.5 ns of one (measured)."""

Most = Callable[[], float | None]
"""Bytes a second for now; None for no limit."""


class Rate:
    """bytes_per_s: None for no limit; now: a limit that comes and goes. Senders take turns as they came."""

    def __init__(self, bytes_per_s: float | None, now: Most = lambda: None) -> None:
        self._bytes_per_s = bytes_per_s
        self._now = now
        self._free_s = 0.0

    async def spend(self, count: int) -> None:
        """Wait until so many bytes may go."""
        limits = [limit for limit in (self._bytes_per_s, self._now()) if limit is not None]
        if not limits:
            return
        begin_s = max(self._free_s, trio.current_time())
        self._free_s = begin_s + count / min(limits)
        await trio.sleep_until(begin_s)


def beside_tokens(generating: Callable[[], bool]) -> Most:
    """Tokens go first: while some are made here, files take a few hundredths of the processor."""
    most = BESIDE_TOKENS_BYTES_PER_S * len(os.sched_getaffinity(0))
    return lambda: most if generating() else None
