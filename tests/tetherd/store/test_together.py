"""Those who wait go together; whoever leaves takes nobody along."""

from __future__ import annotations

from collections.abc import Sequence

import outcome
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from p2p.errors import LEDGER_UNAVAILABLE, TetherError
from tests.tetherd.store.rows import attempt, job
from tetherd.store.batcher import Batcher
from tetherd.store.job_rows import Change
from tetherd.store.together import Together


class Trips:
    """Every trip waits until it is let go. Item 0 fails."""

    def __init__(self) -> None:
        self.made: list[list[int]] = []
        self.gate = trio.Event()
        self.answers: dict[int, int] = {}
        self.together = Together(self.go, 3)

    async def go(self, items: Sequence[int]) -> list[outcome.Outcome[int]]:
        self.made.append(sorted(items))
        await self.gate.wait()
        return [outcome.capture(lambda item=item: 100 // item) for item in items]  # type: ignore[misc]

    async def ask(self, item: int) -> None:
        self.answers[item] = await self.together.carry_out(item)


async def test_those_who_come_while_a_trip_is_under_way_share_the_next_ones() -> None:
    trips = Trips()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trips.ask, 1)
        await wait_all_tasks_blocked()
        for item in (2, 4, 5, 10, 20):
            nursery.start_soon(trips.ask, item)
            await wait_all_tasks_blocked()
        trips.gate.set()
    assert trips.made == [[1], [2, 4, 5], [10, 20]]
    assert trips.answers == {1: 100, 2: 50, 4: 25, 5: 20, 10: 10, 20: 5}


async def test_what_one_item_raises_is_its_own() -> None:
    trips = Trips()
    trips.gate.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trips.ask, 5)
        with pytest.raises(ZeroDivisionError):
            await trips.together.carry_out(0)
    assert trips.answers == {5: 20}


@pytest.mark.parametrize("leaver", [1, 2, 4])
async def test_whoever_leaves_takes_nobody_along(leaver: int) -> None:
    """1 is on its way, 2 is next, 4 waits."""
    trips, scope = Trips(), trio.CancelScope()

    async def leave(item: int) -> None:
        with scope:
            await trips.ask(item)

    async with trio.open_nursery() as nursery:
        for item in (1, 2, 4):
            nursery.start_soon(leave if item == leaver else trips.ask, item)
            await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        trips.gate.set()
    assert {1, 2, 4} - {leaver} <= trips.answers.keys()
    await trips.ask(10)
    assert trips.answers[10] == 10


async def test_whoever_leaves_when_its_turn_has_come_passes_it_on() -> None:
    trips, scope = Trips(), trio.CancelScope()

    async def leave(item: int) -> None:
        with scope:
            await trips.ask(item)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave, 2)
        await trio.lowlevel.checkpoint()
        nursery.start_soon(trips.ask, 4)
        scope.cancel()
        trips.gate.set()
    assert trips.answers[4] == 25


async def away(_changes: Sequence[Change]) -> list[outcome.Outcome[object]]:
    await trio.lowlevel.checkpoint()
    raise TetherError(LEDGER_UNAVAILABLE, "It is away.", retry_after_s=2.0)


async def test_all_who_shared_a_batch_that_failed_are_told_so() -> None:
    batcher = Batcher(away)
    told: list[str] = []

    async def claim(number: int) -> None:
        with pytest.raises(TetherError) as caught:
            await batcher.carry_out(Change(job(number).job, lambda stored: (stored, attempt())))
        told.append(caught.value.code.name)

    async with trio.open_nursery() as nursery:
        for number in range(1, 9):
            nursery.start_soon(claim, number)
    assert told == [LEDGER_UNAVAILABLE.name] * 8
