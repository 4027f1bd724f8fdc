"""A job's first slot is reserved while the ledger writes its claim: both answers count, in whatever order they come."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2p.errors import IN_FLIGHT, TetherError
from tests.tetherd.orchestrator.region import region


async def test_a_first_slot_is_reserved_while_the_ledger_writes_and_given_back_if_it_refuses(
    autojump_clock: MockClock,
) -> None:
    async with region(workers=1, gateways=2) as here:
        worker, claim = here.workers[0], here.store.claim
        answered = trio.Event()

        async def slow_claim(*args: Any, **kwargs: Any) -> Any:
            await trio.sleep(0.1)
            assert len(worker.asked) == 1, "the worker was asked meanwhile"
            answered.set()
            return await claim(*args, **kwargs)

        here.store.claim = slow_claim  # type: ignore[method-assign]
        await here.gateway.place()
        assert answered.is_set() and worker.released == []
        worker.asked.clear()
        with pytest.raises(TetherError) as caught:
            await here.gateways[1].place()
        assert caught.value.code is IN_FLIGHT
        assert worker.released == [worker.asked[0].grant_id]


async def test_a_job_that_the_ledger_knows_is_reserved_for_again_under_its_number() -> None:
    async with region(workers=1) as here:
        await here.gateway.place()
        assert (await here.gateway.granted()).attempt == 2
        assert [one.attempt for one in here.workers[0].asked] == [1, 1, 2]
