"""A token bucket that keeps an engine below its owner's limit. Pure: the caller brings the clock."""

from __future__ import annotations

import math
from typing import Final

BURST_S: Final = 0.02
"""How much unused time may be made up for: enough to hide a late wake-up, too little to see as a burst."""
SMALLEST_BURST: Final = 1.5
"""Tokens; below two, so that a slow limit never lets two out at once, and above one, so that no lateness is lost."""
UNLIMITED: Final = 1 << 30


class Pace:
    """Tokens that may be sampled now. rate: tokens a second over all requests, None for no limit."""

    def __init__(self, rate: float | None, now_s: float) -> None:
        self._rate = rate
        self._burst = max(SMALLEST_BURST, rate * BURST_S) if rate is not None else math.inf
        self._tokens = min(self._burst, 1.0)
        self._at_s = now_s

    def allowance(self, now_s: float) -> int:
        """How many tokens may be sampled at now_s (monotonic seconds)."""
        if self._rate is None:
            return UNLIMITED
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        return int(self._tokens)

    def spend(self, tokens: int) -> None:
        """Count tokens that were sampled, at most the last allowance."""
        if self._rate is not None:
            self._tokens -= tokens

    def wait_s(self) -> float:
        """How long after the last allowance() the next token is due; 0 if it is there."""
        if self._rate is None:
            return 0.0
        return max(0.0, (1.0 - self._tokens) / self._rate)
