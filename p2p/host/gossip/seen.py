"""Which messages came lately. Pure, bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

SEEN_S: Final = 120.0
"""GossipSub's own: longer than any message is still on its way."""
MAX_SEEN: Final = 16_384


class Seen:
    """Ids for SEEN_S; the oldest goes first when there are too many. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ids: OrderedDict[bytes, float] = OrderedDict()

    def add(self, message_id: bytes) -> None:
        now = self._clock()
        self._ids[message_id] = now
        while self._ids:
            oldest = next(iter(self._ids))
            if len(self._ids) <= MAX_SEEN and self._ids[oldest] > now - SEEN_S:
                break
            del self._ids[oldest]

    def has(self, message_id: bytes) -> bool:
        return message_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)
