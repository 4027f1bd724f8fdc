"""What nodes find out about their own reachability, honestly: by dials of others from fresh sockets."""

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


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (None, "public"),
        (Nat.FULL_CONE, "public"),
        (Nat.PORT_RESTRICTED, "private"),
        (Nat.EIM, "private"),
        (Nat.SYMMETRIC, "private"),
    ],
    ids=lambda value: value.name if isinstance(value, Nat) else str(value),
)
async def test_a_node_knows_whether_strangers_reach_it_and_announces_what_they_can_dial(
    kind: Nat | None, state: str
) -> None:
    with Internet() as net:
        async with (
            open_node(net.behind(kind), 0) as node,
            open_node(net.public(), 1) as one,
            open_node(net.public(), 2) as other,
        ):
            await node.connect(one)
            await node.connect(other)
            await node.event(event="reach", state=state)
            outside = f"/ip4/{node.where.public}/tcp/{PORT}"
            if kind is Nat.FULL_CONE:
                await node.event(event="addresses", first=outside)
            told = (await node.ask("addresses"))["addresses"]
            assert (outside in told) is (state == "public")


@needs_miniupnpd
async def test_a_port_that_the_router_opened_makes_a_node_public() -> None:
    with Internet() as net:
        router = net.router(Nat.PORT_RESTRICTED)
        router.upnp()
        async with (
            open_node(router.host(), 0, settings={"upnp": True}) as inside,
            open_node(net.public(), 1) as outside,
        ):
            await inside.connect(outside)
            await inside.event(event="reach", state="public")
            assert f"/ip4/{router.public}/tcp/{PORT}" in (await inside.ask("addresses"))["addresses"]


async def test_an_address_of_the_internet_behind_a_filter_is_not_announced() -> None:
    with Internet() as net:
        host = net.public()
        host.namespace.nft(
            f"add table inet f; add chain inet f i {{ type filter hook input priority 0; }};"
            f"add rule inet f i tcp dport {PORT} ct state new drop"
        )
        async with open_node(host, 0) as node, open_node(net.public(), 1) as other:
            await node.connect(other)
            await node.event(event="reach", state="private")
            told = (await node.ask("addresses"))["addresses"]
            assert f"/ip4/{host.address}/tcp/{PORT}" not in told
