"""How far away a peer is, measured in passing."""

from __future__ import annotations

from typing import Final

GAIN: Final = 1 / 8
"""Of each new measure (RFC 6298, section 2)."""


class Latency:
    """smoothed_s: a frame's way there and its acknowledgement's way back; None before the first."""

    __slots__ = ("smoothed_s",)

    def __init__(self) -> None:
        self.smoothed_s: float | None = None

    def measured(self, round_trip_s: float) -> None:
        if self.smoothed_s is None:
            self.smoothed_s = round_trip_s
        else:
            self.smoothed_s += GAIN * (round_trip_s - self.smoothed_s)
