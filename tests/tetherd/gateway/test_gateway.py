"""The gateway over scripted orchestrators and workers: what it answers, asks for, goes on from, and settles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as replaced

import msgspec
import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from p2p.errors import (
    BODY_TOO_LARGE,
    CAPACITY,
    CONTEXT_EXCEEDED,
    DEADLINE,
    DRAINING,
    ENGINE_FAILED,
    IN_FLIGHT,
    MODEL_NOT_FOUND,
    NO_ORCHESTRATOR,
    NO_WORKER,
    RESULT_GONE,
    RETRY_TOKEN_CONFLICT,
    WORKER_LOST,
    TetherError,
)
from p2p.identity import public_key_of, verify
from p2p.job_id import job_id
from p2p.messages import ChatMessage, ChunkBody, Grant, InferChunk, Receipt
from p2p.wire import decode
from tests.tetherd.gateway.region import ANSWER, QUESTION, TEXT, Region, read, region
from tetherd.gateway.answer import Delta, End


async def test_an_answer_comes_from_the_granted_worker_and_is_settled_with_both_signatures(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        async with here.gateway.submit(QUESTION) as answer:
            started = await answer.started()
            text, end = await read(answer)
        worker, other = here.workers
        assert text == TEXT
        assert (started.worker, started.region, started.prompt_tokens) == (worker.node.peer, "eu", 5)
        assert (end.finish, end.usage.completion_tokens, len(end.attempts)) == ("stop", len(ANSWER), 1)
        assert other.requests == []
        [settlement] = await here.settled()
        [receipt] = settlement.receipts
        assert (settlement.job, settlement.attempt, settlement.end) == (started.job, 1, "done")
        assert verify(public_key_of(worker.node.peer), "receipt", receipt.receipt, receipt.worker_signature)
        own = public_key_of(here.at_gateway.peer)
        assert verify(own, "receipt", receipt.receipt, receipt.gateway_signature)
        assert decode(receipt.receipt, Receipt).position == len(ANSWER)
        assert here.counts.outcomes == {"done": 1}
        assert here.counts.hops == {"place": 1, "open": 1}
        assert (here.counts.first_tokens, here.counts.gaps) == (1, 4)


async def test_nothing_of_the_prompt_is_in_what_the_orchestrator_and_the_wire_see(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        canary = "a canary that sings"
        await here.answer(replaced(QUESTION, messages=(ChatMessage("user", canary),)))
        [asked] = here.leader.asked
        [request] = here.workers[0].requests
        for message in (asked, request):
            assert canary.encode() not in msgspec.msgpack.encode(message)
        assert here.workers[0].inputs[0].messages == (ChatMessage("user", canary),)


async def test_the_same_key_gives_the_same_job_mac_and_seed_and_another_key_others(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        for key in ("one", "one", "two"):
            await here.answer(replaced(QUESTION, idempotency_key=key))
        first, again, other = here.leader.asked
        assert first.job == again.job == job_id("local", "one")
        assert first.request_mac == again.request_mac
        assert {first.request_mac, first.job} & {other.request_mac, other.job} == set()
        seeds = [sent.sampling.seed for sent in here.workers[0].inputs]
        assert seeds[0] == seeds[1] != seeds[2]


# ── Going on elsewhere ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("position", range(0, len(ANSWER), 2))
@pytest.mark.parametrize("how", ["killed", "failed"])
async def test_a_worker_that_fails_anywhere_is_replaced_and_the_client_sees_nothing(
    autojump_clock: MockClock, position: int, how: str
) -> None:
    async with region() as here:
        first, second = here.workers
        failed = TetherError(ENGINE_FAILED, "It crashed.")
        first.at[position] = lambda: here.world.kill(first.node.peer) if how == "killed" else failed
        text, end = await here.answer()
        assert text == TEXT
        assert second.inputs[0].resume == ANSWER[:position]
        assert second.sampled == len(ANSWER) - position
        cause = "CALL_LOST" if how == "killed" else "ENGINE_FAILED"
        assert [(attempt.tokens, attempt.cause) for attempt in end.attempts] == [
            (position, cause),
            (len(ANSWER) - position, ""),
        ]
        assert here.leader.asked[1].exclude == (first.node.peer,)
        assert here.leader.asked[1].cause == cause
        [settlement] = await here.settled()
        assert (settlement.attempt, settlement.end) == (2, "done")
        assert here.counts.causes == {cause: 1, "done": 1}


async def test_a_worker_that_hangs_is_replaced_after_its_patience(autojump_clock: MockClock) -> None:
    async with region(stall_s=10.0) as here:
        here.workers[0].at[4] = trio.Event
        began = trio.current_time()
        assert (await here.answer())[0] == TEXT
        assert trio.current_time() - began == pytest.approx(10.0, abs=1.0)
        assert here.workers[0].cancelled.is_set()


async def test_a_worker_that_failed_is_better_than_none(autojump_clock: MockClock) -> None:
    async with region(workers=1) as here:
        here.workers[0].at[4] = lambda: TetherError(ENGINE_FAILED, "It restarts.")
        text, end = await here.answer()
        assert (text, len(end.attempts)) == (TEXT, 2)


async def test_when_no_attempt_is_left_the_job_is_a_dead_letter_with_its_cause(
    autojump_clock: MockClock,
) -> None:
    async with region(workers=4) as here:
        for worker in here.workers:
            worker.at[2] = lambda: TetherError(ENGINE_FAILED, "It crashed.")
            worker.at[4] = lambda: TetherError(ENGINE_FAILED, "It crashed.")
            worker.at[6] = lambda: TetherError(ENGINE_FAILED, "It crashed.")
        with pytest.raises(TetherError) as caught:
            await here.answer()
        assert caught.value.code is ENGINE_FAILED
        [settlement] = await here.settled()
        assert (settlement.attempt, settlement.end, settlement.cause) == (3, "dead_lettered", "ENGINE_FAILED")


async def test_what_the_client_did_wrong_is_told_and_not_tried_elsewhere(autojump_clock: MockClock) -> None:
    async with region() as here:
        here.workers[0].refuse = TetherError(CONTEXT_EXCEEDED, "600 tokens; 512 fit.", field="messages")
        with pytest.raises(TetherError, match="600 tokens") as caught:
            await here.answer()
        assert (caught.value.code, caught.value.field) == (CONTEXT_EXCEEDED, "messages")
        assert here.workers[1].requests == []
        [settlement] = await here.settled()
        assert (settlement.end, settlement.cause) == ("failed", "CONTEXT_EXCEEDED")


async def test_a_worker_that_cannot_be_dialled_is_looked_up_once(autojump_clock: MockClock) -> None:
    async with region() as here:
        worker = here.workers[0]
        here.leader.spoil_placement = lambda placement: replace(placement, worker_addresses=("/memory/99",))
        here.swarm.found = [worker.node.address]
        _, end = await here.answer()
        assert (here.swarm.lookups, [one.worker for one in end.attempts]) == (1, [worker.node.peer])


async def test_a_worker_that_nobody_knows_is_replaced(autojump_clock: MockClock) -> None:
    async with region() as here:
        here.world.cut(here.at_gateway.peer, here.workers[0].node.peer)
        text, end = await here.answer()
        assert text == TEXT
        assert [attempt.cause for attempt in end.attempts] == ["UNREACHABLE", ""]


async def test_the_deadline_ends_a_request_and_its_call(autojump_clock: MockClock) -> None:
    async with region(deadline_s=20.0, stall_s=60.0) as here:
        here.workers[0].at[4] = trio.Event
        with pytest.raises(TetherError) as caught:
            await here.answer()
        assert caught.value.code is DEADLINE
        assert here.leader.asked[0].deadline_s == pytest.approx(20.0)
        await here.workers[0].cancelled.wait()


# ── Workers that lie ─────────────────────────────────────────────────────────────────────────────────────────────


def altered(**changes: object) -> Callable[[InferChunk], InferChunk]:
    return lambda chunk: replace(chunk, **changes) if chunk.seq == 2 else chunk


def moved(by: int) -> Callable[[ChunkBody], ChunkBody]:
    return lambda body: replace(body, position=body.position + by) if body.position == 4 else body


LIES: dict[str, tuple[Callable[[InferChunk], InferChunk] | None, Callable[[ChunkBody], ChunkBody] | None]] = {
    "a number again": (altered(seq=1), None),
    "a number too far": (altered(seq=7), None),
    "another attempt": (altered(attempt=9), None),
    "a broken chain": (altered(prev_hash=bytes(32)), None),
    "altered ciphertext": (altered(payload=b"x" * 64), None),
    "a gap": (None, moved(+2)),
    "half a repetition": (None, moved(-1)),
    "too many prompt tokens": (None, lambda body: replace(body, accepted=9_999) if body.accepted else body),
    "tokens before acceptance": (None, lambda body: replace(body, accepted=None)),
    "accepted twice": (None, lambda body: replace(body, accepted=5) if body.position == 4 else body),
    "more than was granted": (
        None,
        lambda body: replace(body, token_ids=(1,) * 600) if body.position == 4 else body,
    ),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lying_worker_is_replaced_and_the_client_gets_the_true_answer(
    autojump_clock: MockClock, lie: str
) -> None:
    async with region() as here:
        spoil, spoil_body = LIES[lie]
        liar = here.workers[0]
        liar.spoil = spoil or liar.spoil
        liar.spoil_body = spoil_body or liar.spoil_body
        text, end = await here.answer()
        assert text == TEXT
        assert len(end.attempts) == 2


async def test_tokens_that_were_emitted_before_are_dropped(autojump_clock: MockClock) -> None:
    async with region() as here:

        def repeated(body: ChunkBody) -> ChunkBody:
            return (
                replace(body, position=2, token_ids=ANSWER[2:4], text="again") if body.position == 4 else body
            )

        here.workers[0].spoil_body = repeated
        text, end = await here.answer()
        assert (text, len(end.attempts)) == (TEXT, 2)
        assert here.workers[1].inputs[0].resume == ANSWER[:4]


@pytest.mark.parametrize(
    "changes",
    [{"position": 99}, {"prompt_tokens": 99}, {"attempt": 2}, {"chain": bytes(32)}, {"resumed": True}],
)
async def test_a_receipt_that_does_not_agree_is_not_countersigned(
    autojump_clock: MockClock, changes: dict[str, object]
) -> None:
    async with region() as here:
        worker = here.workers[0]

        def lied(body: ChunkBody) -> ChunkBody:
            if body.receipt is None:
                return body
            false = msgspec.msgpack.encode(replace(decode(body.receipt.receipt, Receipt), **changes))
            signature = worker.node.person.key.sign("receipt", false)
            return replace(body, receipt=replace(body.receipt, receipt=false, worker_signature=signature))

        worker.spoil_body = lied
        assert (await here.answer())[0] == TEXT
        [settlement] = await here.settled()
        assert (settlement.end, settlement.receipts) == ("done", ())
        assert here.counts.receipts_refused == 1


# ── Orchestrators ────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── The client ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_client_that_leaves_ends_the_call_and_the_job(autojump_clock: MockClock) -> None:
    async with region() as here:
        here.workers[0].at[4] = trio.Event
        async with here.gateway.submit(QUESTION) as answer:
            async for _ in answer:
                break
        await here.workers[0].cancelled.wait()
        [settlement] = await here.settled()
        assert settlement.end == "cancelled"
        assert here.counts.outcomes == {"cancelled": 1}
        assert here.gateway.running == 0


async def test_a_client_that_leaves_while_a_leader_thinks_stops_the_question(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        here.leader.silent_s = 10.0
        async with here.gateway.submit(QUESTION):
            await trio.sleep(1.0)
        began = trio.current_time()
        assert await here.settled() == []
        assert trio.current_time() == began


async def test_the_same_key_in_flight_is_refused_and_another_request_under_it_is_a_conflict(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        here.workers[0].at[4] = trio.Event
        question = replaced(QUESTION, idempotency_key="k")
        async with here.gateway.submit(question) as answer:
            await answer.started()
            for other, code in (
                (question, IN_FLIGHT),
                (replaced(question, messages=(ChatMessage("user", "Else?"),)), RETRY_TOKEN_CONFLICT),
            ):
                with pytest.raises(TetherError) as caught:
                    await here.answer(other)
                assert caught.value.code is code


async def test_a_reader_that_pauses_for_a_minute_gets_the_whole_answer(autojump_clock: MockClock) -> None:
    async with region() as here:
        texts: list[str] = []
        async with here.gateway.submit(QUESTION) as answer:
            async for item in answer:
                if isinstance(item, Delta):
                    texts.append(item.text)
                    await trio.sleep(60.0)
        assert "".join(texts) == TEXT


async def test_an_unknown_model_is_told_with_those_there_are(autojump_clock: MockClock) -> None:
    async with region() as here:
        with pytest.raises(TetherError, match="tiny") as caught:
            await here.answer(replaced(QUESTION, model="gpt-4"))
        assert (caught.value.code, caught.value.field) == (MODEL_NOT_FOUND, "model")
        assert (await here.answer(replaced(QUESTION, model="tiny@1")))[0] == TEXT
        [model] = await here.gateway.models()
        assert (model.name, model.version, model.workers, model.context_tokens) == ("tiny", "1", 2, 512)
        here.swarm.known = []
        with pytest.raises(TetherError) as caught:
            await here.answer()
        assert caught.value.code is NO_WORKER


async def test_a_prompt_that_fits_no_frame_is_refused_before_anybody_is_asked(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        with pytest.raises(TetherError) as caught:
            await here.answer(replaced(QUESTION, messages=(ChatMessage("user", "x" * 1_000_000),)))
        assert caught.value.code is BODY_TOO_LARGE
        assert here.leader.asked == []


async def test_a_draining_gateway_finishes_what_runs_and_takes_nothing_new(autojump_clock: MockClock) -> None:
    async with region() as here:
        event = trio.Event()
        here.workers[0].at[4] = lambda: event
        ends: list[End] = []

        async def ask() -> None:
            ends.append((await here.answer())[1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(1.0)
            nursery.start_soon(here.gateway.drain)
            await trio.sleep(1.0)
            with pytest.raises(TetherError) as caught:
                await here.answer()
            assert caught.value.code is DRAINING
            event.set()
        assert len(ends) == 1
        assert here.gateway.ready() == (False, "This node is draining.")


async def test_a_lost_worker_without_another_is_told_as_such(autojump_clock: MockClock) -> None:
    async with region(workers=3) as here:

        def kill(index: int, region_: Region = here) -> None:
            region_.world.kill(region_.workers[index].node.peer)

        for index in range(3):
            here.workers[index].at[2 * index] = lambda index=index: kill(index)  # type: ignore[misc]
        with pytest.raises(TetherError) as caught:
            await here.answer()
        assert caught.value.code is WORKER_LOST
