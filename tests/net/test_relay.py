"""A reservation over a line that breaks."""

from __future__ import annotations

import trio

from tests.net.internet import PORT, Internet, Nat
from tests.net.namespaces import needs_namespaces
from tests.net.nodes import open_node

pytestmark = needs_namespaces


async def test_a_node_is_found_behind_its_relay_again_after_the_cable_was_pulled() -> None:
    with Internet() as net:
        lan = net.router(Nat.SYMMETRIC)
        impatient = {"silence_s": 1.0}
        async with (
            open_node(net.public(), 0, settings=impatient) as relay,
            open_node(lan.host(), 1, settings=impatient) as bob,
            open_node(net.public(), 2) as alice,
        ):
            await relay.ask("reachability", verdict="public")
            await bob.connect(relay)
            await bob.ask("reachability", verdict="private")
            ways = (await bob.ask("reserved"))["addresses"]
            bob.where.cut()
            await bob.event(event="peer", peer=relay.peer, up=False)
            await relay.event(event="peer", peer=bob.peer, up=False)
            bob.where.mend()
            with trio.fail_after(30):
                assert (await bob.ask("reserved"))["addresses"] == ways
            await alice.ask("connect", peer=bob.peer, addresses=ways)
            counted = await alice.ask("count", peer=bob.peer, numbers=20, interval_s=0.0)
            assert (counted["numbers"], counted["ordered"]) == (20, True)


async def test_a_node_behind_a_router_dials_from_its_listening_port_again_and_again() -> None:
    with Internet() as net:
        async with (
            open_node(net.public(), 0) as outside,
            open_node(net.behind(Nat.EIM, delay_ms=10), 1) as inside,
        ):
            for _ in range(3):
                await inside.connect(outside)
                sockets = inside.where.namespace.run("ss", "-Htn", "state", "established")
                assert f"{inside.where.address}:{PORT} {outside.where.address}:{PORT}" in " ".join(
                    sockets.split()
                )
                await inside.ask("disconnect", peer=outside.peer)
