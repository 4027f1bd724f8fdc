"""Placements of tenants: the orchestrator decides by the proof, and candidates agree on who is a tenant."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from trio.testing import MockClock

from p2p.errors import FORBIDDEN, NO_ORCHESTRATOR, RATE_LIMITED, UNAUTHENTICATED, TetherError
from p2p.messages import PLACE, REGISTER, Placement, PlacementRequest, RegisterRequest
from p2p.rates import Rates
from tests.tetherd.orchestrator.region import FakeSwarm, Region, region, tell
from tetherd.orchestrator.registers import EVERY_S, Registers
from tetherd.tenants.desk import MemoryKeeper, TenantDesk
from topics.view import View


async def place(here: Region, wanted: PlacementRequest) -> Placement:
    return await here.gateway.node.rpc.ask(here.leader.peer, PLACE, wanted, timeout_s=15.0)


async def test_from_the_first_tenant_on_every_placement_needs_a_proof() -> None:
    async with region() as here:
        await here.gateway.place("before")
        await here.desk.create_tenant("acme", "")
        with pytest.raises(TetherError) as caught:
            await here.gateway.place("after")
        assert caught.value.code is UNAUTHENTICATED
        assert not [one for one in await here.store.recent() if one.retry_token == "after"]
        await here.lend_key(here.gateway, "beta")
        await here.gateway.place("after")
        rows = {row.retry_token: row.tenant for row in await here.store.recent()}
        assert rows == {"before": "local", "after": "beta"}


async def test_a_proof_that_was_sent_by_another_gateway_is_refused() -> None:
    async with region(gateways=2) as here:
        one, other = here.gateways
        key = await here.lend_key(one, "acme")
        stolen = key.sign(one.wanted(), one.node.peer)
        with pytest.raises(TetherError) as caught:
            await other.node.rpc.ask(here.leader.peer, PLACE, stolen, timeout_s=15.0)
        assert caught.value.code is UNAUTHENTICATED


async def test_a_proof_of_the_wrong_length_names_its_field() -> None:
    async with region() as here:
        with pytest.raises(TetherError) as caught:
            await place(here, replace(here.gateway.wanted(), proof=b"p"))
        assert caught.value.field == "proof"


async def test_candidates_learn_of_keys_and_revocations_from_each_other(autojump_clock: MockClock) -> None:
    async with region() as here, trio.open_nursery() as nursery:
        key = await here.lend_key(here.gateway, "acme")
        other = await here.start("another candidate", "orchestrator")
        tell(here.swarm.view, other, None)
        swarm = FakeSwarm("eu", [here.leader.peer, other.peer], View(other.peer))
        tell(swarm.view, here.leader, None)
        desk = TenantDesk(MemoryKeeper(), now=lambda: 0.0)
        registers = Registers(other.peer, swarm, other.network, other.rpc, desk)
        await nursery.start(registers.run)
        await registers.heard()
        assert desk.register == here.desk.register
        await here.desk.revoke_key(key.key_id)
        await trio.sleep(EVERY_S * 2)
        assert desk.register.keys[key.key_id].revoked is not None
        nursery.cancel_scope.cancel()


async def test_a_candidate_that_reached_none_of_the_others_lets_nobody_in_unless_it_is_alone(
    autojump_clock: MockClock,
) -> None:
    async with region() as here, trio.open_nursery() as nursery:
        other = await here.start("another candidate", "orchestrator")
        gone = await here.start("a third one", "orchestrator")
        here.world.kill(gone.peer)
        swarm = FakeSwarm("eu", [gone.peer, other.peer], View(other.peer))
        tell(swarm.view, gone, None)
        desk = TenantDesk(MemoryKeeper(), now=lambda: 0.0)
        registers = Registers(other.peer, swarm, other.network, other.rpc, desk)
        await nursery.start(registers.run)
        with pytest.raises(TetherError) as caught:
            await registers.heard()
        assert caught.value.code is NO_ORCHESTRATOR and caught.value.retry_after_s
        swarm.ranked[:] = [other.peer]
        await registers.heard()
        nursery.cancel_scope.cancel()


async def test_where_keys_are_required_nobody_is_let_in_without_one_even_before_the_first_tenant() -> None:
    async with region() as here:
        desk = TenantDesk(MemoryKeeper(), now=lambda: 0.0, require_keys=True)
        with pytest.raises(TetherError) as caught:
            await desk.admit(here.gateway.wanted(), here.gateway.node.peer)
        assert caught.value.code is UNAUTHENTICATED


async def test_only_an_orchestrator_of_the_region_is_shown_the_register() -> None:
    async with region() as here:
        with pytest.raises(TetherError) as caught:
            await here.gateway.node.rpc.ask(here.leader.peer, REGISTER, RegisterRequest(b""), timeout_s=3.0)
        assert caught.value.code is FORBIDDEN


async def test_a_tenants_minute_is_kept_and_told(autojump_clock: MockClock) -> None:
    async with region() as there:
        await there.lend_key(there.gateway, "acme")
        await there.desk.limit_tenant("acme", {"requests_per_minute": 2})
        placement, _ = await there.gateway.place("one")
        assert placement.rates is not None
        assert (placement.rates.limit_requests, placement.rates.remaining_requests) == (2, 1)
        await there.gateway.place("two")
        with pytest.raises(TetherError) as refused:
            await there.gateway.place("three")
        assert (refused.value.code, refused.value.rates) == (RATE_LIMITED, Rates(2, 0, 60.0))
        await trio.sleep(30.0)
        await there.gateway.place("three")
