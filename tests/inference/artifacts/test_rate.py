"""How fast files may go: as they were told to, and slower while tokens are made."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from inference.artifacts.rate import Rate


async def seconds(rate: Rate, *counts: int) -> float:
    began = trio.current_time()
    for count in counts:
        await rate.spend(count)
    await rate.spend(0)
    return round(trio.current_time() - began, 6)


async def test_the_lower_of_two_limits_counts_while_there_is_one(autojump_clock: MockClock) -> None:
    limit: list[float | None] = [None]
    rate = Rate(100.0, lambda: limit[0])
    assert await seconds(rate, 100, 100) == 2.0
    limit[0] = 10.0
    assert await seconds(rate, 100, 100) == 20.0
    limit[0] = None
    assert await seconds(rate, 100, 100) == 2.0


async def test_without_a_limit_nobody_waits(autojump_clock: MockClock) -> None:
    assert await seconds(Rate(None), 1 << 40) == 0.0
