"""IPv6 alone, both families, and a family that is broken."""

from __future__ import annotations

from tests.net.internet import PORT, Internet
from tests.net.namespaces import needs_namespaces
from tests.net.nodes import open_node

pytestmark = needs_namespaces
BOTH = (f"/ip4/0.0.0.0/tcp/{PORT}", f"/ip6/::/tcp/{PORT}")


async def test_two_machines_without_ipv4_meet_and_know_that_they_are_reachable() -> None:
    with Internet() as net:
        alice_host, bob_host = net.public(), net.public()
        there = [host.six(number, only=True) for number, host in enumerate((alice_host, bob_host), 1)]
        async with (
            open_node(alice_host, 0, listen=BOTH) as alice,
            open_node(bob_host, 1, listen=BOTH) as bob,
        ):
            assert bob.addresses == (f"/ip6/{there[1]}/tcp/{PORT}",)
            await alice.connect(bob)
            counted = await alice.ask("count", peer=bob.peer, numbers=20, interval_s=0.0)
            assert counted["ordered"]
            for node in (alice, bob):
                await node.event(event="reach", state="public")


async def test_a_dial_takes_the_family_that_works_and_waits_little_for_the_other() -> None:
    with Internet() as net:
        alice_host, bob_host = net.public(), net.public()
        alice_host.six(1)
        bob_host.six(2)
        bob_host.namespace.nft(
            "add table ip6 f; add chain ip6 f i { type filter hook input priority 0; };"
            "add rule ip6 f i tcp dport 0-65535 drop"
        )
        async with (
            open_node(alice_host, 0, listen=BOTH) as alice,
            open_node(bob_host, 1, listen=BOTH) as bob,
        ):
            assert len(bob.addresses) == 2
            broken, working = f"/ip6/2a00:11::2/tcp/{PORT}", f"/ip4/{bob_host.address}/tcp/{PORT}"
            await alice.connect(
                bob, *[f"/ip6/2a00:11::2/tcp/{port}" for port in range(1, 7)], broken, working
            )
