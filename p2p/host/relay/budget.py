"""A relay's bandwidth: a token bucket that lends ahead, so that nobody waits for the size of what it sends. Pure."""

from __future__ import annotations

from typing import Final

BURST_S: Final = 0.5
"""What a quiet relay passes on at once, in seconds of its rate: short answers never wait."""


class Bandwidth:
    """All circuits take from it. now_s: monotonic."""

    def __init__(self, bytes_per_s: float, now_s: float) -> None:
        self._rate = bytes_per_s
        self._left = self._most = bytes_per_s * BURST_S
        self._at = now_s

    def take(self, size_bytes: int, now_s: float) -> float:
        """Charge what was read, and return how long to wait before it is passed on."""
        self._left = min(self._most, self._left + (now_s - self._at) * self._rate) - size_bytes
        self._at = now_s
        return max(0.0, -self._left / self._rate)

    def load(self, now_s: float) -> float:
        """How much of the burst is used up, 0 to 1."""
        left = min(self._most, self._left + (now_s - self._at) * self._rate)
        return min(1.0, max(0.0, 1 - left / self._most))
