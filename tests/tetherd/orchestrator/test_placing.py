"""Placements over real calls in one process: who gets which slot, and what the ledger and the workers are told."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from p2p.errors import (
    CAPACITY,
    DRAINING,
    FORBIDDEN,
    IN_FLIGHT,
    MODEL_NOT_FOUND,
    NO_ORCHESTRATOR,
    NO_WORKER,
    OUT_OF_RANGE,
    RETRY_TOKEN_CONFLICT,
    Code,
    TetherError,
)
from p2p.identity import PeerId, public_key_of, verify
from p2p.messages import ROLES, Grant, ServedModel
from tests.tetherd.orchestrator.region import Gateway, Region, ScriptedWorker, region
from tests.topics.world import NOW, TINY
from tetherd.orchestrator.breaker import LIMIT
from tetherd.orchestrator.matcher import Wish, rank
from tetherd.orchestrator.placing import GRANT_S, QUEUE_S, RESERVE_S
from tetherd.orchestrator.waiting_room import MAX_WAITING, _Waiter


async def refusal(gateway: Gateway, token: str = "token", **changes: Any) -> TetherError:
    with pytest.raises(TetherError) as caught:
        await gateway.place(token, **changes)
    return caught.value


async def attempts(here: Region, token: str = "token") -> list[tuple[PeerId, str]]:
    row = await here.store.get(here.gateway.wanted(token).job)
    return [(one.worker, one.cause) for one in row.attempts] if row else []


async def place_all(gateway: Gateway, tokens: list[str]) -> list[Grant]:
    """At once."""
    grants: list[Grant] = []

    async def place(token: str) -> None:
        grants.append(await gateway.granted(token))

    async with trio.open_nursery() as nursery:
        for token in tokens:
            nursery.start_soon(place, token)
    return grants


# ── Grants ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_grant_is_signed_names_its_bounds_and_a_worker_that_holds_the_slot() -> None:
    async with region() as here:
        placement, grant = await here.gateway.place()
        signed, worker = placement.grant, here.worker(grant.worker)
        leader = public_key_of(here.leader.peer)
        assert verify(leader, "grant", signed.grant, signed.signature)
        assert signed.credential == here.leader.person.member.credential
        assert placement.worker_credential == worker.node.person.member.credential
        assert placement.worker_addresses == worker.node.network.addresses()
        assert (placement.region, placement.model) == ("eu", TINY)
        assert grant == Grant(
            job=here.gateway.wanted().job,
            attempt=1,
            grant_id=b"%016d" % 1,
            tenant="local",
            gateway=here.gateway.node.peer,
            worker=worker.peer,
            worker_incarnation=7,
            manifest_digest=TINY.digest,
            request_mac=b"m" * 32,
            max_prompt_tokens=64,
            max_tokens=32,
            not_after=grant.not_after,
        )
        assert grant.not_after == pytest.approx(NOW + GRANT_S, abs=1.0)
        assert list(worker.held) == [grant.grant_id]
        row = await here.store.get(grant.job)
        assert row is not None
        assert (row.attempt, row.attempts[0].worker, row.owner) == (1, worker.peer, here.leader.peer)


async def test_a_node_that_is_no_gateway_is_refused() -> None:
    async with region() as here:
        stranger = here.workers[0].node
        await stranger.network.connect(here.leader.address)
        assert (await refusal(Gateway(stranger, here.leader.peer))).code is FORBIDDEN


async def test_a_node_that_does_not_lead_says_so() -> None:
    async with region() as here:
        here.swarm.ranked = [here.workers[0].peer]
        assert (await refusal(here.gateway)).code is NO_ORCHESTRATOR


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"job": b"j" * 32}, "jobMatchesTenantAndRetryToken"),
        ({"tenant_id": "other"}, "jobMatchesTenantAndRetryToken"),
        ({"model_id": ""}, "modelId"),
        ({"version": "v" * 257}, "version"),
        ({"request_mac": b""}, "requestMac"),
        ({"deadline_s": 0.0}, "deadlineS"),
        ({"deadline_s": float("nan")}, "deadlineS"),
        ({"deadline_s": 600.1}, "deadlineS"),
        ({"max_tokens": 0}, "maxTokens"),
        ({"max_tokens": 1_000_001}, "maxTokens"),
        ({"max_prompt_tokens": -1}, "maxPromptTokens"),
        ({"last_attempt": -1}, "lastAttempt"),
        ({"exclude": (PeerId("x"),) * 65}, "exclude"),
        ({"cause": "c" * 257}, "cause"),
    ],
)
async def test_what_is_out_of_bounds_is_refused_by_its_name(changes: dict[str, Any], field: str) -> None:
    async with region() as here:
        error = await refusal(here.gateway, **changes)
        assert (error.code, error.field) == (OUT_OF_RANGE, field)
        assert await here.store.recent() == []


async def test_an_unknown_model_is_told_with_those_there_are() -> None:
    async with region() as here:
        error = await refusal(here.gateway, model_id="gpt")
        assert (error.code, error.field) == (MODEL_NOT_FOUND, "model")
        assert "there are: tiny" in error.detail
        assert here.counts.outcomes == {"MODEL_NOT_FOUND": 1}


async def test_a_model_whose_workers_are_gone_is_not_an_unknown_one() -> None:
    async with region(workers=1) as here:
        here.report(here.workers[0], state="leaving")
        error = await refusal(here.gateway)
        assert error.code is NO_WORKER
        assert error.retry_after_s is not None


async def test_a_leader_that_knows_no_worker_yet_calls_no_model_unknown() -> None:
    async with region(workers=0) as here:
        assert (await refusal(here.gateway)).code is NO_WORKER


# ── Workers that will not ────────────────────────────────────────────────────────────────────────────────────────


def first_choice(here: Region) -> PeerId:
    """Who gets the job `token` when all are well."""
    job = here.gateway.wanted().job
    return min((worker.peer for worker in here.workers), key=lambda peer: rank(job, peer, 1.0))


@pytest.mark.parametrize("code", [DRAINING, CAPACITY])
async def test_a_worker_that_refuses_costs_an_attempt_and_the_next_one_is_asked(code: Code) -> None:
    async with region() as here:
        first = first_choice(here)
        here.worker(first).refuse = TetherError(code, "No.")
        grant = await here.gateway.granted()
        assert (grant.attempt, grant.worker != first) == (2, True)
        assert await attempts(here) == [(first, code.name), (grant.worker, "")]


async def test_a_worker_that_does_not_answer_in_a_second_is_passed_over(autojump_clock: MockClock) -> None:
    async with region() as here:
        first = first_choice(here)
        here.worker(first).silent_s = 60.0
        began = trio.current_time()
        grant = await here.gateway.granted()
        assert trio.current_time() - began == pytest.approx(RESERVE_S, abs=0.1)
        assert await attempts(here) == [(first, "DEADLINE"), (grant.worker, "")]


async def test_a_worker_that_cannot_be_reached_is_reported_to_the_swarm() -> None:
    async with region() as here:
        first = first_choice(here)
        here.world.cut(here.leader.peer, first)
        grant = await here.gateway.granted()
        assert grant.worker != first
        assert here.swarm.unreachable == [first]


async def test_when_no_worker_will_the_ledger_says_why_and_the_job_may_be_asked_for_again() -> None:
    async with region() as here:
        for worker in here.workers:
            worker.refuse = TetherError(DRAINING, "No.")
        assert (await refusal(here.gateway)).code is NO_WORKER
        told = await here.orchestrator.why(here.gateway.wanted().job.hex()[:12])
        assert (told["cause"], told["advice"]) == ("DRAINING", DRAINING.advice)
        for worker in here.workers:
            worker.refuse = None
        assert (await here.gateway.granted()).attempt == 3


async def test_a_worker_that_keeps_failing_gets_no_work_for_a_while() -> None:
    async with region() as here:
        first = first_choice(here)
        grant = await here.gateway.granted()
        for _ in range(LIMIT):
            assert grant.worker == first
            exclude = (first,)
            await free(here)
            other = await here.gateway.granted(last_attempt=grant.attempt, exclude=exclude, cause="CALL_LOST")
            await free(here)
            grant = await here.gateway.granted(last_attempt=other.attempt)
        assert grant.worker != first


async def free(here: Region) -> None:
    """All workers are done with all they have, and say so."""
    for worker in here.workers:
        worker.held.clear()
        here.report(worker)
    await trio.lowlevel.checkpoint()


# ── Slots ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_burst_is_spread_over_all_slots_and_overbooks_none() -> None:
    async with region(workers=3, slots=4) as here:
        grants = await place_all(here.gateway, [f"token-{number}" for number in range(12)])
        assert all(grant.attempt == 1 for grant in grants), "nobody was asked in vain"
        assert [len(worker.held) for worker in here.workers] == [4, 4, 4]


async def test_when_all_are_busy_it_waits_and_then_says_when_to_come_again(autojump_clock: MockClock) -> None:
    async with region(workers=1, slots=1) as here:
        await here.gateway.place("first")
        here.report(here.workers[0])
        began = trio.current_time()
        error = await refusal(here.gateway, "second")
        assert trio.current_time() - began == pytest.approx(QUEUE_S, abs=0.1)
        assert error.code is CAPACITY
        assert error.retry_after_s is not None
        assert here.counts.waiting_now == 0
        assert await attempts(here, "second") == [], "no attempt is spent on waiting"


async def test_nobody_waits_beyond_the_deadline(autojump_clock: MockClock) -> None:
    async with region(workers=1, slots=1) as here:
        await here.gateway.place("first")
        here.report(here.workers[0])
        began = trio.current_time()
        await refusal(here.gateway, "second", deadline_s=0.5)
        assert trio.current_time() - began == pytest.approx(0.5, abs=0.1)


async def test_a_slot_that_comes_free_goes_to_whoever_waits(autojump_clock: MockClock) -> None:
    async with region(workers=1, slots=1) as here:
        await here.gateway.place("first")
        here.report(here.workers[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.gateway.granted, "second")
            await trio.sleep(1.0)
            assert here.counts.waiting_now == 1
            here.workers[0].held.clear()
            here.report(here.workers[0])
            await trio.sleep(0.5)
            assert here.counts.waiting_now == 0
        assert len(here.workers[0].held) == 1


async def test_tenants_take_turns(autojump_clock: MockClock) -> None:
    async with region(workers=1, slots=1, gateways=2) as here:
        greedy, modest = here.gateways
        await here.lend_key(greedy, "greedy")
        await here.lend_key(modest, "modest")
        served: list[str] = []
        worker = here.workers[0]
        await greedy.place("first")
        here.report(worker)

        async def ask(gateway: Gateway, token: str) -> None:
            await gateway.place(token)
            served.append(token)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(ask, greedy, f"greedy-{number}")
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, modest, "modest")
            for _ in range(4):
                await trio.sleep(0.3)
                worker.held.clear()
                here.report(worker)
        assert served[:2] == ["greedy-0", "modest"]


async def test_a_crowd_is_turned_away_at_once(autojump_clock: MockClock) -> None:
    async with region(workers=1, slots=1) as here:
        await here.gateway.place("first")
        here.report(here.workers[0])
        room = here.orchestrator._placements._room
        wish = Wish(b"j" * 32, TINY.name, TINY.version, "", frozenset())
        for _ in range(MAX_WAITING):
            room._queue.join("local", _Waiter("local", wish))
        began = trio.current_time()
        room._serve = lambda: None  # type: ignore[method-assign]
        assert (await refusal(here.gateway, "late")).code is CAPACITY
        assert trio.current_time() - began < 0.1
        room._queue = type(room._queue)(MAX_WAITING)


# ── Further attempts ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_next_attempt_goes_elsewhere_and_the_last_is_closed_with_its_cause() -> None:
    async with region() as here:
        first = await here.gateway.granted()
        second = await here.gateway.granted(last_attempt=1, exclude=(first.worker,), cause="CALL_LOST")
        assert (second.attempt, second.worker != first.worker) == (2, True)
        assert await attempts(here) == [(first.worker, "CALL_LOST"), (second.worker, "")]


async def test_when_all_that_have_the_model_failed_it_is_told_at_once(autojump_clock: MockClock) -> None:
    async with region() as here:
        began = trio.current_time()
        error = await refusal(here.gateway, exclude=tuple(worker.peer for worker in here.workers))
        assert (error.code, trio.current_time() - began < 0.1) == (NO_WORKER, True)


async def test_an_answer_goes_on_with_the_file_it_was_begun_with() -> None:
    async with region(workers=3) as here:
        twin = ServedModel(TINY.name, TINY.version, "e" * 64, 512)
        for worker in here.workers[:2]:
            here.report(worker, model_cache=(twin,))
        first = await here.gateway.granted()
        assert first.manifest_digest == twin.digest
        second = await here.gateway.granted(last_attempt=1, exclude=(first.worker,))
        assert second.manifest_digest == twin.digest
        exclude = (first.worker, second.worker)
        assert (await refusal(here.gateway, last_attempt=2, exclude=exclude)).code is NO_WORKER


async def test_a_job_of_a_dead_leader_goes_on_above_its_attempts() -> None:
    async with region() as here:
        assert (await here.gateway.granted(last_attempt=4)).attempt == 5


async def test_a_token_is_bound_to_its_request_and_to_one_gateway_at_a_time() -> None:
    async with region(gateways=2) as here:
        await here.gateway.place()
        assert (await refusal(here.gateway, request_mac=b"x" * 32)).code is RETRY_TOKEN_CONFLICT
        assert (await refusal(here.gateways[1])).code is IN_FLIGHT
        for worker in here.workers:
            assert len(worker.asked) <= 1, "nobody reserved for what was refused"


# ── Gateways that leave ──────────────────────────────────────────────────────────────────────────────────────────


async def test_when_a_gateway_leaves_its_slot_is_given_back_and_the_attempt_is_closed(
    autojump_clock: MockClock,
) -> None:
    async with region(workers=1, slots=1) as here:
        worker = here.workers[0]
        worker.silent_s = 0.5
        with trio.move_on_after(0.2):
            await here.gateway.place()
        await trio.sleep(1.0)
        assert worker.released == [worker.asked[0].grant_id]
        assert await attempts(here) == [(worker.peer, "CANCELLED")]
        worker.silent_s = 0.0
        worker.held.clear()
        assert (await here.gateway.granted()).attempt == 2


async def test_a_gateway_that_leaves_the_queue_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with region(workers=1, slots=1) as here:
        await here.gateway.place("first")
        here.report(here.workers[0])
        with trio.move_on_after(1.0):
            await here.gateway.place("second")
        await trio.sleep(0.1)
        assert here.counts.waiting_now == 0
        assert len(here.workers[0].asked) == 1


async def test_a_node_that_has_all_roles_places_with_itself() -> None:
    async with region(workers=0, leader_roles=ROLES) as here:
        itself = ScriptedWorker(here.leader)
        itself.serve()
        here.report(itself)
        grant = await Gateway(here.leader, here.leader.peer).granted()
        assert (grant.gateway, grant.worker) == (here.leader.peer, here.leader.peer)
