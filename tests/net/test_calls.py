"""Calls over lines that lose packets, and that break."""

from __future__ import annotations

import trio

from tests.net.internet import Internet, Nat
from tests.net.namespaces import needs_namespaces
from tests.net.nodes import open_node

pytestmark = needs_namespaces


async def test_a_call_from_behind_a_router_loses_nothing_on_a_line_that_loses_one_packet_in_twenty() -> None:
    with Internet(loss=0.05) as net:
        async with (
            open_node(net.behind(Nat.PORT_RESTRICTED, delay_ms=20), 0) as alice,
            open_node(net.public(delay_ms=30), 1) as bob,
        ):
            await alice.connect(bob)
            counted = await alice.ask(
                "count", peer=bob.peer, numbers=300, interval_s=0.005, padding_bytes=500
            )
            assert (counted["numbers"], counted["ordered"]) == (300, True), f"seed {net.seed}"


async def test_a_call_goes_on_after_the_cable_was_pulled_for_ten_seconds() -> None:
    with Internet() as net:
        lan = net.router(Nat.PORT_RESTRICTED)
        async with (
            open_node(lan.host(), 0) as alice,
            open_node(net.public(), 1) as bob,
            trio.open_nursery() as nursery,
        ):
            await alice.connect(bob)
            counted: dict[str, object] = {}

            async def count() -> None:
                counted.update(await alice.ask("count", peer=bob.peer, numbers=1500, interval_s=0.01))

            nursery.start_soon(count)
            await alice.ask("counted", peer=bob.peer, numbers=100)
            alice.where.cut()
            await trio.sleep(10)
            alice.where.mend()
        assert (counted["numbers"], counted["ordered"]) == (1500, True), f"seed {net.seed}"
