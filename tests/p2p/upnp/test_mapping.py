"""A port kept open on a router that has its moods."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from p2p.host.upnp import mapping
from p2p.host.upnp.mapping import PortMapping
from tests.p2p.hosts import until
from tests.p2p.upnp.router import Router, open_router

PORT = 7576


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "RENEW_S", 0.02)
    monkeypatch.setattr(mapping, "AGAIN_S", 0.02)


@asynccontextmanager
async def kept(router: Router) -> AsyncIterator[PortMapping]:
    made = PortMapping(PORT, lambda: ["127.0.0.1"], router.search)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made
        nursery.cancel_scope.cancel()


async def mapped(made: PortMapping, address: str | None) -> None:
    await until(lambda: (str(made.address) if made.address else None) == address)


async def test_the_port_is_mapped_renewed_and_given_back() -> None:
    async with open_router() as router:
        async with kept(router) as made:
            await mapped(made, f"/ip4/11.0.0.7/tcp/{PORT}")
            await until(lambda: len(router.leases) > 3)
            assert router.mapped == {PORT: PORT}
            assert set(router.leases) == {mapping.LEASE_S}
        assert router.mapped == {}


async def test_a_port_that_is_somebody_elses_is_replaced_by_another() -> None:
    async with open_router() as router:
        router.refusals[str(PORT)] = 718
        async with kept(router) as made:
            await until(lambda: made.address is not None)
            assert made.address is not None and made.address.port != PORT
            assert router.mapped == {made.address.port: PORT}


async def test_a_router_that_knows_no_leases_maps_for_good_until_the_node_leaves() -> None:
    async with open_router() as router:
        router.refusals["AddPortMapping"] = 725
        async with kept(router) as made:
            await mapped(made, f"/ip4/11.0.0.7/tcp/{PORT}")
            assert set(router.leases) == {0}
        assert router.mapped == {}


async def test_a_new_external_address_is_announced_instead_of_the_old_one() -> None:
    async with open_router() as router, kept(router) as made:
        await mapped(made, f"/ip4/11.0.0.7/tcp/{PORT}")
        router.external_ip = "11.0.0.8"
        await mapped(made, f"/ip4/11.0.0.8/tcp/{PORT}")


@pytest.mark.parametrize("external_ip", ["192.168.1.2", "100.64.0.1", "127.0.0.1", "", "::1", "x" * 2000])
async def test_an_external_address_that_the_internet_cannot_reach_is_not_announced(external_ip: str) -> None:
    async with open_router() as router, kept(router) as made:
        await mapped(made, f"/ip4/11.0.0.7/tcp/{PORT}")
        router.external_ip = external_ip
        await mapped(made, None)
        router.external_ip = "11.0.0.9"
        await mapped(made, f"/ip4/11.0.0.9/tcp/{PORT}")


async def test_a_router_that_refuses_is_asked_again_later() -> None:
    async with open_router() as router:
        router.refusals["AddPortMapping"] = 501
        async with kept(router) as made:
            await trio.sleep(0.1)
            assert made.address is None
            router.refusals.clear()
            await mapped(made, f"/ip4/11.0.0.7/tcp/{PORT}")


async def test_a_machine_that_moves_announces_nothing_until_the_router_of_the_new_place_has_mapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_router() as router, kept(router) as made:
        await mapped(made, f"/ip4/11.0.0.7/tcp/{PORT}")
        monkeypatch.setattr(mapping, "RENEW_S", 1e6)
        router.external_ip = "11.0.0.8"
        made.moved()
        await mapped(made, f"/ip4/11.0.0.8/tcp/{PORT}")
        router.external_ip = "11.0.0.9"
        monkeypatch.setattr(made, "_hosts", lambda: ["10.9.9.9"])
        made.moved()
        assert made.address is None
        await mapped(made, f"/ip4/11.0.0.9/tcp/{PORT}")
