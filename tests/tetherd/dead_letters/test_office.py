"""What an operator does with dead letters, and what a region learns from them."""

from __future__ import annotations

import pytest

from p2p.errors import (
    FIELD_INVALID,
    INPUT_QUARANTINED,
    INPUT_UNAVAILABLE,
    NOT_FOUND,
    UNREACHABLE,
    TetherError,
)
from p2p.identity import PeerId
from tests.tetherd.orchestrator.region import region
from tests.tetherd.store.rows import HERE, job
from tetherd.dead_letters.letters import MemoryLetters
from tetherd.dead_letters.office import Office
from tetherd.dead_letters.shelf import Shelf
from tetherd.store.protocol import JobRecord

INPUT = b"i" * 16


def office() -> Office:
    return Office(Shelf(MemoryLetters(), now=lambda: 110.0), now=lambda: 110.0)


def dead(number: int) -> JobRecord:
    return job(number, state="dead_lettered", ended=105.0 - number, cause="CALL_LOST")


async def test_an_operator_sees_shows_and_drops_letters_by_the_beginning_of_their_job() -> None:
    here = office()
    for number in (1, 2, 18):
        await here.bury(dead(number))
    await here.bury(dead(1))
    assert [one["job"][:2] for one in await here.letters(2)] == ["01", "02"]
    assert (await here.show("12"))["cause"] == "CALL_LOST"
    assert (await here.drop("1212"))["job"] == "12" * 32
    for prefix, code in (("12", NOT_FOUND), ("0", FIELD_INVALID)):
        with pytest.raises(TetherError) as caught:
            await here.show(prefix)
        assert caught.value.code is code


async def test_a_letter_goes_once_its_gateway_has_taken_the_retry_over() -> None:
    here = office()
    await here.bury(dead(1))

    async def gone(_gateway: PeerId, _job: bytes) -> bytes:
        raise TetherError(UNREACHABLE, "Nobody answers.")

    async def again(gateway: PeerId, job: bytes) -> bytes:
        assert (gateway, job) == (HERE, dead(1).job)
        return b"n" * 32

    with pytest.raises(TetherError) as caught:
        await here.retry("01", gone)
    assert caught.value.code is INPUT_UNAVAILABLE
    assert len(await here.letters(9)) == 1
    assert await here.retry("01", again) == {"job": "6e" * 32, "retryOf": "01" * 32}
    assert await here.letters(9) == []


async def test_a_job_that_its_gateway_gives_up_is_a_letter_before_that_is_acknowledged() -> None:
    async with region(workers=3) as here:
        exclude: tuple[PeerId, ...] = ()
        for number in range(3):
            grant = await here.gateway.granted(
                last_attempt=number, exclude=exclude, cause="CALL_LOST" if number else "", input=INPUT
            )
            exclude = (*exclude, grant.worker)
        await here.gateway.settle(grant, "dead_lettered", cause="WORKER_LOST", input=INPUT)
        [letter] = await here.orchestrator._office.letters(9)
        assert (letter["job"], letter["cause"]) == (grant.job.hex(), "WORKER_LOST")
        assert [one["cause"] for one in letter["attempts"]] == ["CALL_LOST", "CALL_LOST", "WORKER_LOST"]
        with pytest.raises(TetherError) as refused:
            await here.gateway.granted("another", input=INPUT)
        assert refused.value.code is INPUT_QUARANTINED
        assert refused.value.retry_after_s is not None
        await here.gateway.granted("yet another", input=b"o" * 16)


async def test_rows_of_other_ends_are_no_letters() -> None:
    async with region() as here:
        grant = await here.gateway.granted()
        await here.gateway.settle(grant, "done")
        await here.gateway.settle(grant, "dead_lettered", cause="LATE")
        assert await here.orchestrator._office.letters(9) == []
