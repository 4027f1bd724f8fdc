"""The input of a job that died stays with its gateway, sealed, and is tried again when an orchestrator asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from p2p.errors import ENGINE_FAILED, FORBIDDEN, INPUT_UNAVAILABLE, TetherError
from p2p.messages import RETRY_LETTER, RetryOrder, Settlement
from tests.tetherd.gateway.region import QUESTION, TEXT, Region, region

KEYED = replace(QUESTION, idempotency_key="once")
BROKEN = TetherError(ENGINE_FAILED, "The engine failed.")


async def told(here: Region, count: int) -> list[Settlement]:
    """What the leader was told, once that is so much. The clock is real: it would not wait for the disk."""
    while len(here.leader.settled) < count:  # noqa: ASYNC110
        await trio.sleep(0.01)
    return here.leader.settled


async def dies(here: Region) -> bytes:
    """A job whose every attempt fails; returns it."""
    for worker in here.workers:
        worker.refuse = BROKEN
    with pytest.raises(TetherError):
        await here.answer(KEYED)
    for worker in here.workers:
        worker.refuse = None
    [settlement] = await told(here, 1)
    assert (settlement.end, len(settlement.input)) == ("dead_lettered", 16)
    assert here.leader.asked[0].input == settlement.input
    return settlement.job


async def retry(here: Region, job: bytes, *, by: int = 0) -> bytes:
    leader = here.leaders[by].node
    await leader.network.connect(here.at_gateway.address)
    answer = await leader.rpc.ask(here.at_gateway.peer, RETRY_LETTER, RetryOrder(job), timeout_s=5.0)
    return answer.job


async def test_a_retry_is_a_new_job_whose_answer_is_for_who_asks_again_under_the_same_key(
    tmp_path: Path,
) -> None:
    async with region(folder=tmp_path) as here:
        job = await dies(here)
        again = await retry(here, job)
        assert again != job
        await told(here, 2)
        while here.gateway.running or _kept(tmp_path, job) > 1:  # noqa: ASYNC110 as in `told`
            await trio.sleep(0.01)
        assert (here.leader.settled[1].job, here.leader.settled[1].end) == (again, "done")
        sampled = sum(worker.sampled for worker in here.workers)
        assert (await here.answer(KEYED))[0] == TEXT
        assert sum(worker.sampled for worker in here.workers) == sampled, "it is not computed once more"
        with pytest.raises(TetherError) as gone:
            await retry(here, job)
        assert gone.value.code is INPUT_UNAVAILABLE


def _kept(folder: Path, job: bytes) -> int:
    """Files of a job: its input while it is dead, and its answer."""
    return len(list(folder.rglob(job.hex())))


async def test_what_is_kept_cannot_be_read_and_outlives_the_gateway(tmp_path: Path) -> None:
    async with region(folder=tmp_path) as here:
        job = await dies(here)
    [file] = (tmp_path / "dead-inputs").iterdir()
    assert b"Hello?" not in file.read_bytes()
    async with region(folder=tmp_path) as reborn:
        again = await retry(reborn, job)
        await told(reborn, 1)
        assert (reborn.leader.settled[0].job, reborn.leader.settled[0].end) == (again, "done")


async def test_a_retry_that_dies_can_be_tried_again_under_its_own_job() -> None:
    async with region() as here:
        job = await dies(here)
        for worker in here.workers:
            worker.refuse = BROKEN
        again = await retry(here, job)
        await told(here, 2)
        assert here.leader.settled[1].end == "dead_lettered"
        for worker in here.workers:
            worker.refuse = None
        await retry(here, again)
        await told(here, 3)
        assert here.leader.settled[2].end == "done"


async def test_only_an_orchestrator_may_ask_and_only_for_what_is_here() -> None:
    async with region() as here:
        job = await dies(here)
        worker = here.workers[0].node
        await worker.network.connect(here.at_gateway.address)
        with pytest.raises(TetherError) as refused:
            await worker.rpc.ask(here.at_gateway.peer, RETRY_LETTER, RetryOrder(job), timeout_s=5.0)
        assert refused.value.code is FORBIDDEN
        with pytest.raises(TetherError) as unknown:
            await retry(here, b"j" * 32)
        assert unknown.value.code is INPUT_UNAVAILABLE


async def test_the_same_question_has_the_same_digest_and_another_one_another() -> None:
    async with region() as here:
        await here.answer()
        await here.answer(KEYED)
        await here.answer(replace(QUESTION, messages=None, prompt="Hello?"))
        one, two, three = (asked.input for asked in here.leader.asked)
        assert one == two != three
