from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from topics.pace import Nudge, about


async def test_a_wait_ends_in_time_without_a_nudge(autojump_clock: MockClock) -> None:
    await Nudge().wait(60)
    assert trio.current_time() == 60


async def test_a_nudge_ends_a_wait_at_once_and_only_that_one(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    nudge = Nudge()
    nursery.start_soon(nudge.wait, 60)
    await wait_all_tasks_blocked()
    nudge()
    nudge()
    await wait_all_tasks_blocked()
    assert trio.current_time() == 0
    await nudge.wait(5)
    assert trio.current_time() == 5


async def test_a_nudge_that_came_early_is_not_lost(autojump_clock: MockClock) -> None:
    nudge = Nudge()
    nudge()
    await nudge.wait(60)
    assert trio.current_time() == 0


def test_intervals_stay_within_a_fifth() -> None:
    assert all(8 <= about(10) <= 12 for _ in range(100))
