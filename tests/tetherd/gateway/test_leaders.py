"""Orchestrators that are gone, silent, wrong, or of two minds."""

from __future__ import annotations

from dataclasses import replace as replaced

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from p2p.errors import (
    CAPACITY,
    IN_FLIGHT,
    MODEL_NOT_FOUND,
    NO_ORCHESTRATOR,
    NO_WORKER,
    RESULT_GONE,
    RETRY_TOKEN_CONFLICT,
    TetherError,
)
from p2p.messages import Grant
from p2p.wire import decode
from tests.tetherd.gateway.region import QUESTION, TEXT, read, region


async def test_a_leader_that_is_gone_is_passed_over_at_once_and_reported(autojump_clock: MockClock) -> None:
    async with region(leaders=2) as here:
        gone, next_one = here.leaders
        here.world.kill(gone.node.peer)
        assert (await here.answer())[0] == TEXT
        assert here.swarm.unreachable == [gone.node.peer]
        assert len(next_one.asked) == 1


async def test_a_silent_leader_is_hedged_and_its_late_grant_given_back(autojump_clock: MockClock) -> None:
    async with region(leaders=2) as here:
        slow, quick = here.leaders
        slow.silent_s = 5.0
        began = trio.current_time()
        async with here.gateway.submit(QUESTION) as answer:
            await answer.started()
            assert trio.current_time() - began == pytest.approx(0.3, abs=0.05)
            assert (await read(answer))[0] == TEXT
        await here.gateway.drain()
        [released] = here.workers[0].released
        [request] = here.workers[0].requests
        assert released.grant_id != decode(request.grant.grant, Grant).grant_id
        assert len(quick.settled) == 1


async def test_two_leaders_that_grant_the_same_attempt_are_both_told_the_end(
    autojump_clock: MockClock,
) -> None:
    async with region(leaders=2) as here:
        slow, quick = here.leaders
        slow.silent_s = 0.5
        here.workers[0].at[6] = lambda: event
        event = trio.Event()
        async with here.gateway.submit(QUESTION) as answer:
            await answer.started()
            await trio.sleep(1.0)
            event.set()
            await read(answer)
        await here.gateway.drain()
        assert [one.end for one in (*slow.settled, *quick.settled)] == ["done", "done"]
        assert len(here.workers[0].requests) == 1
        assert len(here.workers[0].released) == 1


async def test_leader_and_worker_lost_together_are_both_replaced_and_the_numbers_go_on(
    autojump_clock: MockClock,
) -> None:
    async with region(leaders=2) as here:
        first, second = here.leaders

        def disaster() -> None:
            here.world.kill(first.node.peer)
            here.world.kill(here.workers[0].node.peer)

        here.workers[0].at[4] = disaster
        text, end = await here.answer()
        assert (text, len(end.attempts)) == (TEXT, 2)
        assert [asked.last_attempt for asked in second.asked] == [1]
        [settlement] = await here.settled()
        assert (settlement.attempt, settlement.end, second.settled) == (2, "done", [settlement])


async def test_the_clients_trace_goes_on_to_orchestrator_and_worker(autojump_clock: MockClock) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with region() as here:
        await here.answer(replaced(QUESTION, traceparent=f"00-{trace_id}-00f067aa0ba902b7-01"))
        assert here.leader.asked[0].trace_id.split("-")[1] == trace_id
        assert here.workers[0].requests[0].trace_id.split("-")[1] == trace_id


async def test_without_any_leader_the_client_is_told_to_come_again(autojump_clock: MockClock) -> None:
    async with region() as here:
        here.swarm.ranked = []
        with pytest.raises(TetherError) as caught:
            await here.answer()
        assert caught.value.code is NO_ORCHESTRATOR
        assert caught.value.retry_after_s is not None
        assert here.gateway.ready()[0] is False


async def test_a_passing_refusal_is_asked_again_and_a_lasting_one_told(autojump_clock: MockClock) -> None:
    async with region() as here:
        here.leader.refuse = [TetherError(NO_WORKER, "Not yet."), TetherError(MODEL_NOT_FOUND, "Not yet.")]
        assert (await here.answer())[0] == TEXT
        here.leader.refuse = [TetherError(CAPACITY, "All busy.", retry_after_s=1.0)]
        with pytest.raises(TetherError) as caught:
            await here.answer()
        assert (caught.value.code, caught.value.retry_after_s) == (CAPACITY, 1.0)
        assert await here.settled() == here.leader.settled[:1]


@pytest.mark.parametrize("code", [RESULT_GONE, RETRY_TOKEN_CONFLICT, IN_FLIGHT])
async def test_what_the_ledger_decides_is_told_at_once(autojump_clock: MockClock, code: object) -> None:
    async with region(leaders=2) as here:
        here.leader.refuse = [TetherError(code, "By the ledger.")]  # type: ignore[arg-type]
        with pytest.raises(TetherError) as caught:
            await here.answer()
        assert caught.value.code is code
        assert here.leaders[1].asked == []


@pytest.mark.parametrize(
    "changes",
    [
        {"job": bytes(32)},
        {"tenant": "another"},
        {"gateway": "12D3KooWanother"},
        {"request_mac": bytes(32)},
        {"max_tokens": 9_999},
        {"manifest_digest": "e" * 64},
    ],
)
async def test_a_grant_that_is_not_what_was_asked_for_is_not_used(
    autojump_clock: MockClock, changes: dict[str, object]
) -> None:
    async with region(leaders=2) as here:
        here.leader.spoil = lambda grant: replace(grant, **changes)
        assert (await here.answer())[0] == TEXT
        assert len(here.leaders[1].asked) == 1


async def test_a_grant_signed_by_a_node_that_is_no_orchestrator_is_not_used(
    autojump_clock: MockClock,
) -> None:
    async with region(leaders=2) as here:
        worker = here.workers[1].node.person
        leader = here.leader
        leader.spoil_placement = lambda placement: replace(
            placement, grant=replace(placement.grant, credential=worker.member.credential)
        )
        assert (await here.answer())[0] == TEXT
        assert len(here.leaders[1].asked) == 1


async def test_a_settlement_is_tried_until_a_leader_takes_it(autojump_clock: MockClock) -> None:
    async with region() as here:
        here.leader.refuse_settlements = 3
        await here.answer()
        assert len(await here.settled()) == 1
