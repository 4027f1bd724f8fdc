"""Answers that are given again under the same Idempotency-Key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace as replaced
from pathlib import Path

import pytest
from trio.testing import MockClock

from p2p.content import ChatMessage, TokenLogprob, Usage
from p2p.errors import RETRY_TOKEN_CONFLICT, TetherError
from p2p.identity import PeerId
from tests.tetherd.gateway.region import QUESTION, TEXT, region
from tests.topics.world import NOW
from tetherd.gateway.answer import Answer, AttemptSummary, Delta, End, Started
from tetherd.gateway.replay import KEPT_S, MAX_ANSWER_BYTES, Replays

ASKED = replaced(QUESTION, idempotency_key="k")
SECRET = b"s" * 32
CANARY = "a canary that sings"


class Told:
    """An answer that was made up."""

    def __init__(self, job: bytes, *texts: str) -> None:
        self._started = Started(job, "tiny", "1", PeerId("worker"), "eu", 5, NOW)
        attempts = (AttemptSummary(PeerId("worker"), "eu", 3),)
        self.items: list[Delta | End] = [
            Delta(text, (1,), (TokenLogprob(b"t", -0.5, ((b"x", -1.0),)),)) for text in texts
        ]
        self.items.append(End("stop", Usage(5, 3), attempts))

    async def started(self) -> Started:
        return self._started

    async def __aiter__(self) -> AsyncIterator[Delta | End]:
        for item in self.items:
            yield item


async def items_of(answer: Answer | None) -> list[Delta | End]:
    assert answer is not None
    return [replaced(item, token_ids=()) if isinstance(item, Delta) else item async for item in answer]


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replays(tmp_path: Path, clock: Clock) -> Replays:
    return Replays(tmp_path, SECRET, now=clock)


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def job(number: int) -> bytes:
    return number.to_bytes(32, "big")


async def keep(replays: Replays, number: int, *texts: str) -> list[Delta | End]:
    return await items_of(replays.record(Told(job(number), *texts), b"mac", "tiny"))


async def test_an_answered_key_is_answered_again_alike_and_nobody_is_asked_twice(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        whole = []
        for _ in range(3):
            async with here.gateway.submit(ASKED) as answer:
                whole.append((await answer.started(), await items_of(answer)))
        assert whole[0] == whole[1] == whole[2]
        assert "".join(item.text for item in whole[0][1] if isinstance(item, Delta)) == TEXT
        assert len(here.leader.asked) == 1 and len(await here.settled()) == 1
        assert here.counts.outcomes == {"done": 1, "replayed": 2}


@pytest.mark.parametrize(
    "other",
    [
        replaced(ASKED, messages=(ChatMessage("user", "Else?"),)),
        replaced(ASKED, model="tiny@1"),
        replaced(ASKED, max_tokens=7),
    ],
    ids=["another prompt", "another model", "another bound"],
)
async def test_another_body_under_an_answered_key_is_a_conflict(
    other: object, autojump_clock: MockClock
) -> None:
    async with region() as here:
        await here.answer(ASKED)
        with pytest.raises(TetherError) as caught:
            await here.answer(other)  # type: ignore[arg-type]
        assert caught.value.code is RETRY_TOKEN_CONFLICT


async def test_a_replay_needs_no_worker_and_an_answer_without_a_key_is_not_kept(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        await here.answer(ASKED)
        await here.answer(QUESTION)
        here.swarm.known = []
        assert (await here.answer(ASKED))[0] == TEXT
        with pytest.raises(TetherError):
            await here.answer(QUESTION)


async def test_an_answer_that_its_client_left_is_not_kept(autojump_clock: MockClock) -> None:
    async with region() as here:
        async with here.gateway.submit(ASKED) as answer:
            async for _ in answer:
                break
        assert (await here.answer(ASKED))[0] == TEXT
        assert len(here.leader.asked) == 2


async def test_what_was_kept_outlives_a_restart_and_is_sealed_on_the_disk(
    replays: Replays, tmp_path: Path, clock: Clock
) -> None:
    told = await keep(replays, 1, "one ", CANARY)
    (file,) = files(tmp_path)
    assert CANARY.encode() not in file.read_bytes() and file.stat().st_mode & 0o077 == 0
    again = Replays(tmp_path, SECRET, now=clock)
    await again.open()
    assert await items_of(await again.find(job(1), b"mac", "tiny")) == told


async def test_another_nodes_secret_or_a_damaged_file_is_as_if_nothing_was_kept(
    replays: Replays, tmp_path: Path, clock: Clock
) -> None:
    await keep(replays, 1, "text")
    stranger = Replays(tmp_path, b"t" * 32, now=clock)
    await stranger.open()
    assert await stranger.find(job(1), b"mac", "tiny") is None
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:-3])
    assert await replays.find(job(1), b"mac", "tiny") is None


async def test_an_hour_later_it_is_gone_from_the_disk(replays: Replays, tmp_path: Path, clock: Clock) -> None:
    await keep(replays, 1, "text")
    clock.now += KEPT_S + 1
    assert await replays.find(job(1), b"mac", "tiny") is None
    assert not files(tmp_path)


async def test_the_oldest_make_room_and_what_is_larger_than_any_answer_is_not_kept(
    replays: Replays, tmp_path: Path
) -> None:
    quarter = "x" * (MAX_ANSWER_BYTES // 4 - 64)
    for number in range(70):
        await keep(replays, number, quarter)
    kept = sum(file.stat().st_size for file in files(tmp_path))
    assert 60 << 20 < kept <= 64 << 20
    assert await replays.find(job(0), b"mac", "tiny") is None
    assert await replays.find(job(69), b"mac", "tiny") is not None
    await keep(replays, 100, quarter, "more" * 100)
    assert await replays.find(job(100), b"mac", "tiny") is None
