"""The worker role over calls in memory, with an engine on a script and a clock that jumps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from inference.worker import LEASE_RENEWAL_S
from p2p.content import ChatMessage, ChunkBody, Sampling, SealedInput
from p2p.errors import (
    ATTEMPT_STALE,
    CANCELLED,
    CAPACITY,
    DECRYPT_FAILED,
    DRAINING,
    ENGINE_FAILED,
    FORBIDDEN,
    FRAME_INVALID,
    GRANT_INVALID,
    MODEL_NOT_FOUND,
    Code,
    TetherError,
)
from p2p.identity import PeerId, verify
from p2p.messages import (
    RELEASE,
    RENEW_LEASE,
    RESERVE,
    Ack,
    Grant,
    LeaseRenewal,
    Receipt,
    ReleaseRequest,
    ReserveRequest,
    SignedGrant,
)
from p2p.sealed import seal_to
from p2p.wire import decode
from tests.inference.people import (
    CONTENT,
    CONTEXT,
    GATEWAY,
    MANIFEST,
    NOW,
    ORCHESTRATOR,
    OUTSIDER,
    WORKER,
    ScriptedEngine,
    Town,
    grant_for,
    sign,
    town,
)


def reserve(grant: Grant) -> ReserveRequest:
    return ReserveRequest(
        grant.job, grant.attempt, grant.grant_id, grant.manifest_digest, grant.max_tokens, grant.not_after
    )


async def refusal(
    here: Town,
    content: SealedInput = CONTENT,
    grant: Grant | None = None,
    *,
    signed: SignedGrant | None = None,
) -> Code:
    """The code that ends the call in clear."""
    with pytest.raises(TetherError) as error:
        await here.answer(content, grant, signed=signed)
    assert "canary" not in error.value.detail
    return error.value.code


async def test_an_answer_begins_with_its_count_and_ends_with_a_receipt(autojump_clock: MockClock) -> None:
    async with town() as here:
        async with here.ask() as chunks:
            bodies = [body async for body in chunks]
            before_last = chunks.before
        first, last = bodies[0], bodies[-1]
        assert first == ChunkBody(accepted=4)
        assert [token for body in bodies for token in body.token_ids] == list(range(100, 108))
        assert "".join(body.text for body in bodies) == "0 1 2 3 4 5 6 7 "
        assert (last.finish, last.usage and last.usage.completion_tokens) == ("length", 8)
        assert last.receipt is not None
        assert verify(WORKER.key.public, "receipt", last.receipt.receipt, last.receipt.worker_signature)
        receipt = decode(last.receipt.receipt, Receipt)
        assert receipt.chain == before_last
        assert (receipt.prompt_tokens, receipt.first_position, receipt.position) == (4, 0, 8)
        assert (receipt.finish, receipt.resumed, receipt.build_tag) == ("length", False, "tag")


async def test_a_resumed_answer_goes_on_at_its_position_and_samples_only_the_rest(
    autojump_clock: MockClock,
) -> None:
    async with town() as here:
        content = replace(CONTENT, resume=(100, 101, 102))
        bodies = await here.answer(content, grant_for(CONTENT))
        assert [(body.position, body.token_ids) for body in bodies[1:3]] == [(3, (103,)), (4, (104,))]
        assert bodies[-1].usage is not None and bodies[-1].usage.completion_tokens == 8
        assert bodies[-1].receipt is not None
        receipt = decode(bodies[-1].receipt.receipt, Receipt)
        assert (receipt.first_position, receipt.position, receipt.resumed) == (3, 8, True)
        assert (here.metrics.tokens, here.metrics.prompts, here.metrics.outcomes) == (5, 4, ["length"])


async def test_without_max_tokens_an_answer_fills_what_the_grant_and_the_context_leave(
    autojump_clock: MockClock,
) -> None:
    async with town() as here:
        content = replace(CONTENT, max_tokens=None)
        await here.answer(content, grant_for(content, max_tokens=20))
        await here.answer(content, grant_for(content, grant_id=b"h" * 16))
        assert [asked.max_tokens for asked in here.engine.seen] == [20, CONTEXT - 4]


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (replace(CONTENT, max_tokens=61), "CONTEXT_EXCEEDED", ("65", "64")),
        (replace(CONTENT, max_tokens=0), "OUT_OF_RANGE", ("max_tokens",)),
        (replace(CONTENT, messages=None, prompt=""), "FIELD_INVALID", ("empty",)),
        (replace(CONTENT, messages=(ChatMessage("user", "word " * 64),)), "CONTEXT_EXCEEDED", ("64", "64")),
        (replace(CONTENT, messages=(ChatMessage("user", "word " * 55),)), "GRANT_INVALID", ("50", "55")),
        (replace(CONTENT, resume=(1,) * 9), "FIELD_INVALID", ("9",)),
        (replace(CONTENT, sampling=Sampling(temperature=float("nan"))), "OUT_OF_RANGE", ("temperature",)),
        (replace(CONTENT, sampling=Sampling(top_p=1.5)), "OUT_OF_RANGE", ("top_p",)),
        (replace(CONTENT, sampling=Sampling(top_k=1 << 40)), "OUT_OF_RANGE", ("top_k",)),
        (replace(CONTENT, sampling=Sampling(stop=("x",) * 17)), "OUT_OF_RANGE", ("stop",)),
    ],
)
async def test_what_follows_from_the_content_is_refused_inside_the_seal(
    autojump_clock: MockClock, content: SealedInput, code: str, told: tuple[str, ...]
) -> None:
    async with town() as here:
        (body,) = await here.answer(content)
        assert body.error is not None and body.error.code == code
        assert all(word in body.error.detail for word in told)
        assert here.metrics.used == here.engine.under_way == 0


def other_signer(grant: Grant) -> SignedGrant:
    return sign(grant, OUTSIDER)


def broken_signature(grant: Grant) -> SignedGrant:
    return replace(sign(grant), signature=bytes(64))


@pytest.mark.parametrize(
    ("grant", "signer"),
    [
        (grant_for(), other_signer),
        (grant_for(), broken_signature),
        (grant_for(gateway=OUTSIDER.peer), sign),
        (grant_for(worker=OUTSIDER.peer), sign),
        (grant_for(worker_incarnation=6), sign),
        (grant_for(job=b"short"), sign),
        (grant_for(grant_id=b""), sign),
        (grant_for(not_after=NOW - 1), sign),
        (grant_for(not_after=NOW + 10_000), sign),
        (grant_for(request_mac=bytes(32)), sign),
        (grant_for(replace(CONTENT, max_tokens=9)), sign),
    ],
)
async def test_a_grant_that_is_not_for_this_request_is_refused(
    autojump_clock: MockClock, grant: Grant, signer: Callable[[Grant], SignedGrant]
) -> None:
    async with town() as here:
        assert await refusal(here, grant=grant, signed=signer(grant)) is GRANT_INVALID
        assert here.engine.seen == []


async def test_a_grant_is_good_for_one_use_and_a_lower_attempt_for_none(autojump_clock: MockClock) -> None:
    async with town() as here:
        await here.answer(grant=grant_for(attempt=2))
        assert await refusal(here, grant=grant_for(attempt=2)) is GRANT_INVALID
        assert await refusal(here, grant=grant_for(attempt=1, grant_id=b"h" * 16)) is ATTEMPT_STALE


async def test_what_cannot_be_opened_or_read_is_refused_without_quoting_it(autojump_clock: MockClock) -> None:
    async with town() as here:
        grant = grant_for()
        _, garbage = seal_to(WORKER.key.sealing_public, grant.job, grant.attempt, b"\xa4canary")
        for sealed, code in ((b"x" * 100, DECRYPT_FAILED), (b"", DECRYPT_FAILED), (garbage, FRAME_INVALID)):
            with pytest.raises(TetherError) as error:
                await here.answer(grant=grant, sealed=sealed or b"y")
            assert error.value.code is code
            assert "canary" not in error.value.detail


async def test_an_unknown_model_is_not_found(autojump_clock: MockClock) -> None:
    async with town() as here:
        assert await refusal(here, grant=grant_for(manifest_digest="other")) is MODEL_NOT_FOUND


async def test_only_orchestrators_reserve_and_only_gateways_ask(autojump_clock: MockClock) -> None:
    async with town() as here:
        for call in (here.gateway, here.outsider, here.foreigner):
            with pytest.raises(TetherError) as error:
                await call.ask(WORKER.peer, RESERVE, reserve(grant_for()), timeout_s=5)
            assert error.value.code is FORBIDDEN
        with pytest.raises(TetherError) as error:
            await here.answer(grant=grant_for(gateway=OUTSIDER.peer), caller=here.outsider)
        assert error.value.code is FORBIDDEN


async def test_a_reservation_counts_as_load_and_is_released_or_used(autojump_clock: MockClock) -> None:
    async with town() as here:
        first, second = grant_for(), grant_for(job=b"k" * 32, grant_id=b"h" * 16)
        for grant in (first, second):
            answer = await here.orchestrator.ask(WORKER.peer, RESERVE, reserve(grant), timeout_s=5)
        assert (answer.incarnation, answer.load, here.worker.health().load) == (7, 2, 2)
        with pytest.raises(TetherError) as error:
            await here.orchestrator.ask(
                WORKER.peer, RESERVE, reserve(grant_for(job=b"l" * 32, grant_id=b"i" * 16)), timeout_s=5
            )
        assert error.value.code is CAPACITY and error.value.retry_after_s
        await here.gateway.ask(WORKER.peer, RELEASE, ReleaseRequest(second.job, second.grant_id), timeout_s=5)
        assert here.worker.health().load == 1
        await here.answer(grant=first)
        assert here.worker.health().load == 0


async def test_a_caller_that_goes_away_frees_the_slot(autojump_clock: MockClock) -> None:
    async with town() as here:
        async with here.ask() as chunks:
            async for body in chunks:
                if body.token_ids:
                    break
            assert here.engine.under_way == 1
        await trio.sleep(1)
        assert (here.engine.under_way, here.worker.health().load) == (0, 0)
        assert here.metrics.outcomes == [CANCELLED.name]


async def test_a_dead_engine_ends_the_call_and_another_try_may_succeed(autojump_clock: MockClock) -> None:
    async with town() as here:
        here.engine.dies_at = 3
        assert await refusal(here) is ENGINE_FAILED
        here.engine.dies_at = None
        content = replace(CONTENT, resume=(100, 101, 102))
        bodies = await here.answer(content, grant_for(CONTENT, attempt=2, grant_id=b"h" * 16))
        assert bodies[-1].finish == "length"
        assert here.metrics.outcomes == [ENGINE_FAILED.name, "length"]


async def test_a_later_attempt_of_the_same_job_ends_the_earlier_one(autojump_clock: MockClock) -> None:
    async with town() as here, trio.open_nursery() as nursery:
        ended: list[Code] = []

        async def earlier() -> None:
            ended.append(await refusal(here))

        nursery.start_soon(earlier)
        await trio.sleep(0.03)
        bodies = await here.answer(grant=grant_for(attempt=2, grant_id=b"h" * 16))
        assert bodies[-1].finish == "length"
        assert ended == [ATTEMPT_STALE]


async def test_what_the_engine_yields_goes_at_once(autojump_clock: MockClock) -> None:
    class Fast(ScriptedEngine):
        token_s = 0.0

    async with town(Fast()) as here:
        started = trio.current_time()
        bodies = await here.answer(replace(CONTENT, max_tokens=41))
        assert here.metrics.firsts == [0.0]
        assert trio.current_time() == started
        assert [token for body in bodies for token in body.token_ids] == list(range(100, 141))


async def test_the_lease_is_renewed_at_the_first_leader_that_answers(autojump_clock: MockClock) -> None:
    renewed: list[LeaseRenewal] = []

    async def renew(_caller: PeerId, renewal: LeaseRenewal) -> Ack:
        renewed.append(renewal)
        return Ack()

    class Slow(ScriptedEngine):
        token_s = 2.0

    async with town(Slow()) as here:
        here.orchestrator.serve(RENEW_LEASE, renew)
        here.leaders.insert(0, GATEWAY.peer)
        await here.answer()
        grant = grant_for()
        assert renewed == [LeaseRenewal(grant.job, grant.attempt, grant.grant_id)] * int(
            16 // LEASE_RENEWAL_S
        )


async def test_a_draining_worker_finishes_what_it_has_and_takes_nothing_new(
    autojump_clock: MockClock,
) -> None:
    async with town() as here, trio.open_nursery() as nursery:
        finishes: list[object] = []

        async def running() -> None:
            finishes.append((await here.answer())[-1].finish)

        nursery.start_soon(running)
        await trio.sleep(0.03)
        nursery.start_soon(here.worker.drain, 30)
        await trio.sleep(0.01)
        assert await refusal(here, grant=grant_for(job=b"k" * 32, grant_id=b"h" * 16)) is DRAINING
        with pytest.raises(TetherError) as error:
            await here.orchestrator.ask(WORKER.peer, RESERVE, reserve(grant_for(job=b"l" * 32)), timeout_s=5)
        assert error.value.code is DRAINING
    assert finishes == ["length"]


async def test_what_has_not_finished_when_the_drain_is_over_goes_on_elsewhere(
    autojump_clock: MockClock,
) -> None:
    async with town() as here, trio.open_nursery() as nursery:
        codes: list[Code] = []

        async def running() -> None:
            codes.append(await refusal(here))

        nursery.start_soon(running)
        await trio.sleep(0.03)
        await here.worker.drain(0.02)
        assert here.engine.under_way == 0
    assert codes == [DRAINING]


async def test_health_says_what_is_served_and_how_fast(autojump_clock: MockClock) -> None:
    async with town() as here:
        await here.answer()
        health = here.worker.health()
        assert (health.worker_id, health.capacity, health.load) == (WORKER.peer, 2, 0)
        assert health.model_cache[0].digest == MANIFEST.digest
        assert health.model_cache[0].context_tokens == CONTEXT
        assert health.build_tags == {MANIFEST.digest: "tag"}
        assert health.tokens_per_second == pytest.approx(8 / 60)
        assert here.changes
        await trio.sleep(61)
        assert here.worker.health().tokens_per_second == 0
        assert ORCHESTRATOR.peer in here.leaders
