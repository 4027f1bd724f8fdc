"""Long work: how far it is, told to whoever follows, never backwards."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from inference.artifacts.fetching import Progress
from p2p.errors import NO_SOURCE, NOT_FOUND, TetherError
from tetherd.registry.errands import HEARTBEAT_S, MAX_ERRANDS, Errands, Told, follow


@pytest.fixture
async def errands(nursery: trio.Nursery, autojump_clock: MockClock) -> Errands:
    errands = Errands()
    await nursery.start(errands.run)
    return errands


async def told(errands: Errands, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) async for line in follow(errands.get(name))]


async def test_a_follower_hears_each_step_and_the_end(errands: Errands) -> None:
    async def work(tell: Told) -> dict[str, Any]:
        for done in (10, 40, 30, 100):
            tell(Progress(done, 100, 5.0, 2))
            await trio.sleep(1.0)
        return {"model": "demo@1"}

    events = await told(errands, errands.begin(work)["work"])
    assert [event["doneBytes"] for event in events if event["sizeBytes"]] == [10, 40, 100, 100]
    assert (events[-1]["state"], events[-1]["result"]) == ("done", {"model": "demo@1"})
    assert {event["state"] for event in events[:-1]} == {"running"}


async def test_work_that_ends_while_a_line_is_written_still_has_a_last_line(errands: Errands) -> None:
    go = trio.Event()

    async def work(_tell: Told) -> dict[str, Any]:
        await go.wait()
        return {}

    lines = follow(errands.get(errands.begin(work)["work"]))
    assert json.loads(await anext(lines))["state"] == "running"
    go.set()
    await trio.testing.wait_all_tasks_blocked()
    assert [json.loads(line)["state"] async for line in lines] == ["done"]


async def test_a_follower_of_slow_work_hears_that_the_daemon_is_there(errands: Errands) -> None:
    async def work(_tell: Told) -> dict[str, Any]:
        await trio.sleep(10 * HEARTBEAT_S)
        return {}

    assert len(await told(errands, errands.begin(work)["work"])) >= 9


async def test_work_that_fails_says_so_to_those_who_come_late_too(errands: Errands) -> None:
    async def work(_tell: Told) -> dict[str, Any]:
        raise TetherError(NO_SOURCE, "Nobody has it.")

    name = errands.begin(work)["work"]
    for _ in range(2):
        last = (await told(errands, name))[-1]
        assert (last["state"], last["error"]["code"]) == ("failed", "NO_SOURCE")


async def test_only_so_much_ended_work_is_remembered(errands: Errands) -> None:
    async def work(_tell: Told) -> dict[str, Any]:
        return {}

    names = []
    for _ in range(MAX_ERRANDS + 2):
        names.append(errands.begin(work)["work"])
        await told(errands, names[-1])
    with pytest.raises(TetherError) as refused:
        errands.get(names[0])
    assert refused.value.code is NOT_FOUND
    assert errands.get(names[-1]).done
