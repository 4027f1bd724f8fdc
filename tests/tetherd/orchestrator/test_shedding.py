"""Whoever would wait for longer than there is time is told so before it, with when to come again."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2p.errors import CAPACITY, TetherError
from p2p.messages import POSITION, QueuePlace
from tests.tetherd.orchestrator.region import Region, region
from tests.topics.world import TINY
from tetherd.orchestrator.flow import LEAST


async def fill(there: Region, *, apart_s: float) -> None:
    """Take the only slot, of a line that moved every so often."""
    await there.gateway.place("one")
    there.report(there.workers[0])
    for _ in range(LEAST):
        there.orchestrator._placements._room._flow.moved(TINY.name, trio.current_time())
        await trio.sleep(apart_s)
    there.report(there.workers[0])


async def test_a_wait_beyond_the_time_there_is_is_refused_before_it(autojump_clock: MockClock) -> None:
    async with region(workers=1, slots=1) as there, trio.open_nursery() as nursery:
        await fill(there, apart_s=1.0)
        for number in range(4):
            nursery.start_soon(there.gateway.place, f"early {number}")
        await trio.sleep(0.1)
        began = trio.current_time()
        with pytest.raises(TetherError) as refused:
            await there.gateway.place("late")
        assert (refused.value.code, trio.current_time() - began < 0.5) == (CAPACITY, True)
        assert refused.value.retry_after_s == pytest.approx(5.0, abs=0.5)
        nursery.cancel_scope.cancel()


async def test_who_asks_again_in_the_moment_of_its_answers_waits_for_the_word_that_slots_are_free(
    autojump_clock: MockClock,
) -> None:
    """However slowly slots came free before: a batch ends all at a time, and comes again."""
    async with region(workers=1, slots=1) as there:
        await fill(there, apart_s=3.0)
        placed = trio.Event()

        async def again(token: str) -> None:
            await there.gateway.place(token)
            placed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(again, "two")
            nursery.start_soon(again, "three")
            await trio.sleep(0.2)
            there.workers[0].held.clear()
            there.report(there.workers[0])
            with trio.fail_after(1.0):
                await placed.wait()
            nursery.cancel_scope.cancel()


async def test_a_refusal_for_want_of_room_says_when_to_come_again(autojump_clock: MockClock) -> None:
    async with region(workers=1, slots=1) as there:
        await there.gateway.place("one")
        there.report(there.workers[0])
        with pytest.raises(TetherError) as refused:
            await there.gateway.place("two")
        assert refused.value.code is CAPACITY
        assert refused.value.retry_after_s is not None and refused.value.retry_after_s >= 1.0


async def test_a_gateway_may_ask_how_far_its_job_has_come(autojump_clock: MockClock) -> None:
    async with region(workers=1, slots=1) as there, trio.open_nursery() as nursery:
        await there.gateway.place("one")
        there.report(there.workers[0])
        for number in (2, 3):
            nursery.start_soon(there.gateway.place, f"token {number}")
            await trio.sleep(0.1)
        for number, position in ((2, 1), (3, 2), (9, 0)):
            asked = QueuePlace(there.gateway.wanted(f"token {number}").job)
            answer = await there.gateway.node.rpc.ask(there.leader.peer, POSITION, asked, timeout_s=1.0)
            assert answer.position == position
        nursery.cancel_scope.cancel()
