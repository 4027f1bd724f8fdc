"""What a node does in its LAN: a way in through the router, and the members that are there."""

from __future__ import annotations

import shutil

import pytest

from tests.net.internet import PORT, Internet, Nat
from tests.net.namespaces import needs_namespaces
from tests.net.nodes import open_node

pytestmark = needs_namespaces
needs_miniupnpd = pytest.mark.skipif(
    not shutil.which("miniupnpd"), reason="miniupnpd is missing; it is in Debian's miniupnpd-nftables."
)
UPNP = {"upnp": True}


@needs_miniupnpd
async def test_a_port_is_mapped_on_the_router_announced_dialled_and_closed_at_the_end() -> None:
    with Internet() as net:
        router = net.router(Nat.PORT_RESTRICTED)
        router.upnp()
        mapped = f"/ip4/{router.public}/tcp/{PORT}"
        async with open_node(net.public(), 0) as outside:
            async with open_node(router.host(), 1, settings=UPNP) as inside:
                await inside.event(event="addresses", first=mapped)
                await outside.connect(inside, mapped)
                counted = await outside.ask("count", peer=inside.peer, numbers=10, interval_s=0.0)
                assert counted["numbers"] == 10
                await inside.stop()
            assert str(PORT) not in router.namespace.run(
                "nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd"
            )


@needs_miniupnpd
async def test_two_nodes_behind_one_router_get_a_port_each() -> None:
    with Internet() as net:
        router = net.router(Nat.PORT_RESTRICTED)
        router.upnp()
        async with (
            open_node(net.public(), 0) as outside,
            open_node(router.host(), 1, settings=UPNP) as one,
            open_node(router.host(), 2, settings=UPNP) as other,
        ):
            mapped = [(await node.event(event="addresses", mapped=True))["first"] for node in (one, other)]
            assert len(set(mapped)) == 2
            for node, address in zip((one, other), mapped, strict=True):
                await outside.connect(node, address)


async def test_a_lan_without_a_gateway_changes_nothing() -> None:
    with Internet() as net:
        router = net.router(Nat.PORT_RESTRICTED)
        async with open_node(router.host(), 0, settings=UPNP) as alice, open_node(net.public(), 1) as bob:
            await alice.connect(bob)
            assert alice.addresses == (f"/ip4/{alice.where.address}/tcp/{PORT}",)


async def test_members_in_a_lan_find_each_other_whoever_comes_first() -> None:
    with Internet() as net:
        lan = net.router(Nat.PORT_RESTRICTED)
        async with (
            open_node(lan.host(), 0, mdns=True) as first,
            open_node(lan.host(), 1, mdns=True) as second,
        ):
            await first.event(event="peer", peer=second.peer, up=True)
            await second.event(event="peer", peer=first.peer, up=True)
            async with open_node(lan.host(), 2, mdns=True) as third:
                for node in (first, second):
                    await node.event(event="peer", peer=third.peer, up=True)


async def test_another_swarm_in_the_same_lan_is_not_met() -> None:
    with Internet() as net:
        lan = net.router(Nat.PORT_RESTRICTED)
        async with (
            open_node(lan.host(), 0, mdns=True) as ours,
            open_node(lan.host(), 1, mdns=True, swarm="another") as theirs,
            open_node(lan.host(), 2, mdns=True) as late,
            open_node(lan.host(), 3, mdns=True, swarm="another") as late_too,
        ):
            await ours.event(event="peer", peer=late.peer, up=True)
            await theirs.event(event="peer", peer=late_too.peer, up=True)
            assert [event["peer"] for event in ours.events if event["event"] == "peer"] == [late.peer]
