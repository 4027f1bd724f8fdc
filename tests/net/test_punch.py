"""Members behind routers, over a relay and then directly. The whole campaign is `make bench-punch`."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.net.internet import Internet, Nat
from tests.net.namespaces import needs_namespaces
from tests.net.nodes import open_node
from tests.net.pairs import open_pair

pytestmark = needs_namespaces


async def test_a_call_that_began_over_a_relay_goes_on_directly_and_loses_nothing() -> None:
    with Internet(loss=0.02) as net:
        async with (
            open_pair(net, Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED) as pair,
            trio.open_nursery() as nursery,
        ):
            punched: dict[str, Any] = {}

            async def punch() -> None:
                ask = {"peer": pair.bob.peer, "addresses": pair.ways, "patience_s": 12.0}
                punched.update(await pair.alice.ask("punch", **ask))

            nursery.start_soon(punch)
            await pair.alice.event(event="peer", peer=pair.bob.peer, up=True)
            counted = await pair.alice.ask(
                "count", peer=pair.bob.peer, numbers=300, interval_s=0.01, padding_bytes=500
            )
            assert (counted["numbers"], counted["ordered"]) == (300, True), f"seed {net.seed}"
        assert punched["took_s"] is not None, f"seed {net.seed}"


async def test_members_behind_routers_find_relays_each_other_and_a_direct_way_by_themselves() -> None:
    with Internet() as net:
        async with (
            open_node(net.public(), 0) as first,
            open_node(net.public(), 1) as second,
            open_node(net.behind(Nat.PORT_RESTRICTED, delay_ms=20), 2) as alice,
            open_node(net.behind(Nat.EIM, delay_ms=10), 3) as bob,
        ):
            await second.connect(first)
            for node in (alice, bob):
                await node.connect(first)
            await bob.ask("reserved", relays=2)
            found = await alice.ask("find", peer=bob.peer)
            punched = await alice.ask("punch", peer=bob.peer, addresses=found["addresses"], patience_s=20.0)
            assert punched["took_s"] is not None, f"seed {net.seed}"


@pytest.mark.parametrize(
    ("one", "other"),
    [(Nat.EIM, Nat.PORT_RESTRICTED), (Nat.SYMMETRIC, Nat.FULL_CONE)],
    ids=["endpoint-independent x port-restricted", "symmetric x full-cone"],
)
async def test_a_pair_of_routers_is_punched_through(one: Nat, other: Nat) -> None:
    with Internet() as net:
        async with open_pair(net, one, other) as pair:
            assert await pair.dial(12.0) is not None, f"seed {net.seed}"


async def test_a_pair_that_cannot_be_punched_stays_relayed_and_says_by_whom() -> None:
    with Internet() as net:
        async with open_pair(net, Nat.SYMMETRIC, Nat.SYMMETRIC) as pair:
            assert await pair.dial(1.0) is None
            for here, there in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
                assert (await here.ask("direct", peer=there.peer, patience_s=0))["relay"] == pair.relay.peer
            counted = await pair.alice.ask("count", peer=pair.bob.peer, numbers=50, interval_s=0.0)
            assert (counted["numbers"], counted["ordered"]) == (50, True)
