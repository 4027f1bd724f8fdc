"""Workers that die, hang, refuse and lie: the client's answer is the undisturbed one, or one clear error."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from p2p.content import ChunkBody
from p2p.errors import (
    CONTEXT_EXCEEDED,
    DEADLINE,
    ENGINE_FAILED,
    WORKER_LOST,
    TetherError,
)
from p2p.messages import Grant, InferChunk, Placement, Receipt
from p2p.wire import decode
from tests.tetherd.gateway.region import ANSWER, QUESTION, TEXT, Region, read, region
from tests.topics.world import ISSUER, NOW
from tetherd.gateway.answer import Loading, Queued


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


async def test_a_worker_certified_with_a_key_that_is_none_is_replaced(autojump_clock: MockClock) -> None:
    async with region() as here:
        weak = here.workers[0].node.peer
        credential = ISSUER.certify(weak, bytes(32), ("worker",), ("eu",), serial=bytes(16), now=NOW)

        def weakened(placement: Placement) -> Placement:
            grant = decode(placement.grant.grant, Grant)
            return replace(placement, worker_credential=credential) if grant.worker == weak else placement

        here.leader.spoil_placement = weakened
        text, end = await here.answer()
        assert (text, end.attempts[0].cause) == (TEXT, "CERTIFICATE_INVALID")


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


async def test_a_lost_worker_without_another_is_told_as_such(autojump_clock: MockClock) -> None:
    async with region(workers=3) as here:

        def kill(index: int, region_: Region = here) -> None:
            region_.world.kill(region_.workers[index].node.peer)

        for index in range(3):
            here.workers[index].at[2 * index] = lambda index=index: kill(index)  # type: ignore[misc]
        with pytest.raises(TetherError) as caught:
            await here.answer()
        assert caught.value.code is WORKER_LOST


async def test_a_worker_that_loads_its_model_is_waited_for_as_long_as_it_tells_of_it(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        here.workers[0].loads = (0, 20, 40, 90)
        heard: list[Queued | Loading] = []
        async with here.gateway.submit(QUESTION, heard.append) as answer:
            text, end = await read(answer)
        assert (text, len(end.attempts)) == (TEXT, 1)
        assert heard == [Loading(0), Loading(20), Loading(40), Loading(90)]


@pytest.mark.parametrize("percent", [-1, 101])
async def test_a_worker_that_has_loaded_less_than_nothing_or_more_than_all_is_replaced(
    autojump_clock: MockClock, percent: int
) -> None:
    async with region() as here:
        here.workers[0].loads = (percent,)
        text, end = await here.answer()
        assert text == TEXT
        assert [attempt.cause for attempt in end.attempts] == ["FRAME_INVALID", ""]
