"""The gateway over a scripted region: what it answers, what it shows of a prompt, how its clients come and go."""

from __future__ import annotations

from dataclasses import replace as replaced

import msgspec
import pytest
import trio
from trio.testing import MockClock

from p2p.content import ChatMessage, SealedInput
from p2p.errors import (
    BODY_TOO_LARGE,
    DRAINING,
    IN_FLIGHT,
    MODEL_NOT_FOUND,
    NO_WORKER,
    RATE_LIMITED,
    RETRY_TOKEN_CONFLICT,
    TetherError,
)
from p2p.identity import public_key_of, verify
from p2p.job_id import job_id
from p2p.messages import PlacementRequest, Receipt
from p2p.wire import decode
from tests.tetherd.gateway.region import ANSWER, QUESTION, TEXT, read, region
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
    asked, inputs = list[PlacementRequest](), list[SealedInput]()
    for key in ("one", "one", "two"):
        async with region() as here:
            await here.answer(replaced(QUESTION, idempotency_key=key))
            asked += here.leader.asked
            inputs += here.workers[0].inputs
    first, again, other = asked
    assert first.job == again.job == job_id("local", "one")
    assert first.request_mac == again.request_mac
    assert {first.request_mac, first.job} & {other.request_mac, other.job} == set()
    seeds = [sent.sampling.seed for sent in inputs]
    assert seeds[0] == seeds[1] != seeds[2]


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


async def test_a_reader_that_pauses_for_a_minute_gets_the_whole_answer_and_what_came_meanwhile_in_one_piece(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        pieces: list[Delta] = []
        async with here.gateway.submit(QUESTION) as answer:
            async for item in answer:
                if isinstance(item, Delta):
                    pieces.append(item)
                    await trio.sleep(60.0)
        assert "".join(piece.text for piece in pieces) == TEXT
        assert len(pieces) <= 2 < sum(len(piece.token_ids) for piece in pieces)


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


async def test_a_prompt_of_megabytes_reaches_its_worker_whole(autojump_clock: MockClock) -> None:
    async with region() as here:
        long = replaced(QUESTION, messages=(ChatMessage("user", "x" * 4_000_000),))
        assert (await here.answer(long))[0] == TEXT


async def test_a_prompt_that_fits_no_call_is_refused_before_anybody_is_asked(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        with pytest.raises(TetherError) as caught:
            await here.answer(replaced(QUESTION, messages=(ChatMessage("user", "x" * 8_000_000),)))
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


async def test_a_limit_that_only_unsettled_books_reach_is_asked_about_again_once_they_are_told(
    autojump_clock: MockClock,
) -> None:
    full = TetherError(RATE_LIMITED, "One at a time.", retry_after_s=1.0)
    async with region(gather_s=30.0) as here:
        await here.answer()
        assert here.leader.settled == [], "the books of the first answer are still here"
        here.leader.refuse = [full]
        text, _ = await here.answer()
        assert text == TEXT
        assert len(here.leader.settled) == 1, "they were told before the second question"
        await trio.sleep(60.0)
        here.leader.refuse = [full]
        with pytest.raises(TetherError) as caught:
            await here.answer()
        assert caught.value.code is RATE_LIMITED, "with nothing left to tell, the limit is one"
