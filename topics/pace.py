"""The pace of the loops: waits that news can cut short, and intervals that do not march in step."""

from __future__ import annotations

import random

import trio


class Nudge:
    """Wakes a loop before its time. Several nudges between two waits count as one."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def __call__(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Return after timeout_s, or at once when nudged."""
        with trio.move_on_after(timeout_s):
            await self._event.wait()
        self._event = trio.Event()


def about(interval_s: float) -> float:
    """The interval give or take a fifth, so that nodes that started together drift apart."""
    return interval_s * random.uniform(0.8, 1.2)
