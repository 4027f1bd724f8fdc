"""One worker with several models and memory for one, over calls in memory and on a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from inference.engine_room import EngineRoom
from inference.manifest import Manifest, ManifestFile
from inference.offer import Offer, Told
from inference.residency import ROOM_WAIT_S
from p2p.content import ChunkBody
from p2p.errors import CAPACITY, ENGINE_FAILED, MODEL_INVALID, MODEL_NOT_FOUND, Code, TetherError
from p2p.messages import Grant
from tests.inference.people import CONTEXT, MANIFEST, ScriptedEngine, Town, grant_for, offer_of, town

OTHER = Manifest("other", "1", "llama.cpp", (ManifestFile("other.gguf", 1, "11" * 32),), CONTEXT)
FIRST, SECOND = MANIFEST.digest, OTHER.digest


@asynccontextmanager
async def turns(load_s: float = 10.0) -> AsyncIterator[tuple[Town, ScriptedEngine, ScriptedEngine]]:
    """Two models that take a second to load, and room for one of them."""
    one, two = ScriptedEngine(), ScriptedEngine()
    offers = [offer_of(one), offer_of(two, OTHER, load_s=load_s)]
    async with town(one, offers) as here:
        yield here, one, two


def for_other(job: bytes = b"o") -> Grant:
    return grant_for(job=job * 32, grant_id=job * 16, manifest_digest=SECOND)


def loads(bodies: list[ChunkBody]) -> list[int]:
    return [body.loading for body in bodies if body.loading is not None]


def loaded(here: Town) -> dict[str, bool]:
    return {one.digest: one.loaded for one in here.worker.health().model_cache}


async def test_a_model_is_loaded_when_it_is_asked_for_and_its_progress_is_told(
    autojump_clock: MockClock,
) -> None:
    async with turns() as (here, one, two):
        assert loaded(here) == {FIRST: True, SECOND: False}
        bodies = await here.answer(grant=for_other())
        percents = loads(bodies)
        assert percents == sorted(percents) and {10, 50, 90} <= set(percents)
        assert bodies[len(percents)] == ChunkBody(accepted=4)
        assert bodies[-1].finish == "length" and len(two.seen) == 1
        assert loaded(here) == {FIRST: False, SECOND: True}
        assert here.changes
        again = await here.answer(grant=for_other(b"p"))
        assert loads(again) == []
        assert (await here.answer())[-1].finish == "length" and len(one.seen) == 1


async def test_who_waits_for_others_to_finish_is_told_so_before_gateways_lose_patience(
    autojump_clock: MockClock,
) -> None:
    async with turns(load_s=0.0) as (here, one, _):
        one.token_s = 3.0
        async with trio.open_nursery() as nursery, here.ask() as chunks:
            bodies: list[ChunkBody] = []

            async def other() -> None:
                bodies.extend(await here.answer(grant=for_other()))

            async for body in chunks:
                if body.token_ids:
                    break
            nursery.start_soon(other)
            await trio.sleep(12.0)
            assert loaded(here)[FIRST] and not bodies
            async for _ in chunks:
                pass
        assert len(loads(bodies)) >= 3 and set(loads(bodies)) == {0}
        assert bodies[-1].finish == "length"


async def test_a_wait_has_an_end_with_a_clear_error_that_says_when_to_come_again(
    autojump_clock: MockClock,
) -> None:
    async with turns() as (here, one, _):
        one.token_s = 100.0
        async with here.ask():
            await trio.sleep(1.0)
            began_s = trio.current_time()
            with pytest.raises(TetherError) as refused:
                await here.answer(grant=for_other())
            assert trio.current_time() - began_s == pytest.approx(ROOM_WAIT_S, abs=1)
        assert refused.value.code is CAPACITY and refused.value.retry_after_s
        assert "not loaded" in refused.value.detail
        assert here.worker.health().load <= 1


async def test_who_leaves_while_a_model_loads_frees_his_slot_and_the_load_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with turns() as (here, _, two):
        async with here.ask(grant=for_other()) as chunks:
            async for body in chunks:
                assert body.loading is not None
                break
        await trio.sleep(1.0)
        assert here.worker.health().load == 0
        await trio.sleep(10.0)
        assert loaded(here) == {FIRST: False, SECOND: True} and not two.seen


def failing(code: Code, failures: list[int]) -> Offer:
    """A model that fails to load as long as there is a failure left."""

    @asynccontextmanager
    async def start(_told: Told) -> AsyncIterator[ScriptedEngine]:
        await trio.lowlevel.checkpoint()
        if failures:
            failures.pop()
            raise TetherError(code, "no")
        yield ScriptedEngine()

    return Offer(OTHER, 0, 2, CONTEXT, start)


async def test_a_load_that_fails_is_a_retryable_error_and_later_tried_again(
    autojump_clock: MockClock,
) -> None:
    room = EngineRoom([offer_of(ScriptedEngine(), need_bytes=1), failing(ENGINE_FAILED, [1])], 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(room.run)
        with pytest.raises(TetherError):
            await room.begun()
        with room.ask(SECOND) as turn, pytest.raises(TetherError) as refused:
            [percent async for percent in turn.progress()]
        assert refused.value.code is ENGINE_FAILED and refused.value.retry_after_s
        await trio.sleep(refused.value.retry_after_s)
        with room.ask(SECOND) as turn:
            assert [percent async for percent in turn.progress()] == []
            assert turn.engine.info.slots == 2
        nursery.cancel_scope.cancel()


async def test_a_model_that_cannot_be_loaded_is_offered_no_more(autojump_clock: MockClock) -> None:
    room = EngineRoom([offer_of(ScriptedEngine()), failing(MODEL_INVALID, [1])], 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(room.run)
        with pytest.raises(TetherError, match="no"):
            await room.begun()
        assert [one.digest for one in room.served()] == [FIRST]
        assert room.offer(SECOND) is None
        with room.ask(SECOND) as turn, pytest.raises(TetherError) as refused:
            [percent async for percent in turn.progress()]
        assert refused.value.code is MODEL_NOT_FOUND
        nursery.cancel_scope.cancel()


async def test_engines_end_with_their_room(autojump_clock: MockClock) -> None:
    ended: list[str] = []

    @asynccontextmanager
    async def start(_told: Told) -> AsyncIterator[ScriptedEngine]:
        try:
            yield ScriptedEngine()
        finally:
            ended.append("engine")

    room = EngineRoom([Offer(MANIFEST, 1, 2, CONTEXT, start)], 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(room.run)
        await room.begun()
        nursery.cancel_scope.cancel()
    assert ended == ["engine"]


async def test_capacity_is_that_of_the_engines_that_run(autojump_clock: MockClock) -> None:
    offers = [offer_of(ScriptedEngine(slots=3)), offer_of(ScriptedEngine(slots=5), OTHER)]
    room = EngineRoom(offers, 1)
    assert room.capacity == 5
    async with trio.open_nursery() as nursery:
        await nursery.start(room.run)
        await room.begun()
        assert room.capacity == 3
        with room.ask(SECOND) as turn:
            [percent async for percent in turn.progress()]
            assert room.capacity == 5
        nursery.cancel_scope.cancel()
