"""Members that nobody can dial, over relays that are real hosts."""

from __future__ import annotations

import pytest
import trio

from p2p.errors import TetherError
from p2p.host.host import Host
from p2p.host.paths import Reachability
from p2p.host.settings import RelayTerms
from p2p.identity import PeerId
from p2p.transport import PeerAddress
from tests.p2p.hosts import ANYWHERE, address, echo, until
from tests.p2p.relay.people import behind, circuits, open_hidden, open_relay, run_relay
from tests.swarms import make_swarm

ECHO = "/echo/1"


async def say(host: Host, peer: PeerId, text: bytes) -> bytes:
    stream = await host.open_stream(peer, ECHO)
    await stream.write(text)
    await stream.close()
    heard = b""
    while part := await stream.read(65_536):
        heard += part
    return heard


async def test_two_nodes_that_nobody_can_dial_talk_over_a_relay() -> None:
    swarm = make_swarm(3)
    async with open_relay(swarm) as relay, open_hidden(swarm, 1, relay) as alice:
        async with open_hidden(swarm, 2, relay) as bob:
            bob.handle(ECHO, echo)
            await alice.connect(behind(bob))
            assert await say(alice, bob.peer_id, b"hello") == b"HELLO"
            large = b"x" * 3_000_000
            assert await say(alice, bob.peer_id, large) == large.upper()
            assert alice.paths()[bob.peer_id].relay == relay.peer_id
            assert bob.paths()[alice.peer_id].relay == relay.peer_id
            assert alice.paths()[relay.peer_id].relay is None
        await until(lambda: bob.peer_id not in alice.peers())


async def test_the_network_names_the_relay_behind_which_a_peer_is() -> None:
    swarm = make_swarm(3)
    async with (
        open_relay(swarm) as relay,
        open_hidden(swarm, 2, relay) as bob,
        open_hidden(swarm, 1, relay, reserve=False) as alice,
    ):
        found = None
        while not found:
            found = await alice.find_peer(bob.peer_id)
        assert found.addresses == circuits(bob)
        await alice.connect(PeerAddress(bob.peer_id))
        assert alice.paths()[bob.peer_id].relay == relay.peer_id


async def test_a_node_finds_willing_relays_that_it_has_never_met() -> None:
    swarm = make_swarm(4)
    async with open_relay(swarm, 0) as relay, open_relay(swarm, 1) as other:
        await other.connect(address(relay))
        async with open_hidden(swarm, 2, relay, reserve=False) as alice:
            alice.reach.found(Reachability.PRIVATE)
            await until(lambda: len(circuits(alice)) == 2)
            assert {relay.peer_id, other.peer_id} <= alice.peers()


async def test_reservations_come_back_after_the_relay_was_restarted_and_circuits_with_them() -> None:
    swarm = make_swarm(3)
    async with trio.open_nursery() as nursery:
        stop, stop_again = trio.Event(), trio.Event()
        relay: Host = await nursery.start(run_relay, swarm, 0, ANYWHERE, stop)
        [where] = relay.addresses()
        async with open_hidden(swarm, 2, relay) as bob, open_hidden(swarm, 1, relay) as alice:
            bob.handle(ECHO, echo)
            await alice.connect(behind(bob))
            stop.set()
            await until(lambda: not alice.peers() and not circuits(bob))
            await nursery.start(run_relay, swarm, 0, where, stop_again)
            await until(lambda: bool(circuits(bob)))
            assert await say(alice, bob.peer_id, b"again") == b"AGAIN"
        stop_again.set()


async def test_a_member_that_holds_no_reservation_cannot_be_reached() -> None:
    swarm = make_swarm(3)
    async with (
        open_relay(swarm) as relay,
        open_hidden(swarm, 1, relay) as alice,
        open_hidden(swarm, 2, relay, reserve=False) as bob,
    ):
        [way] = circuits(alice)
        with pytest.raises(TetherError) as error:
            await alice.connect(PeerAddress(bob.peer_id, (way,)))
        assert "NO_RESERVATION" in error.value.detail


async def test_a_circuit_that_has_carried_its_bytes_ends_and_leaves_the_other_alone() -> None:
    swarm = make_swarm(4)
    terms = RelayTerms(circuit_bytes=2_000_000)
    async with (
        open_relay(swarm, terms=terms) as relay,
        open_hidden(swarm, 1, relay) as alice,
        open_hidden(swarm, 2, relay) as bob,
        open_hidden(swarm, 3, relay) as carol,
    ):
        for host in (bob, carol):
            host.handle(ECHO, echo)
            await alice.connect(behind(host))
        carols = alice.paths()[carol.peer_id]
        gone = trio.Event()
        alice.watch(lambda peer, up: None if up or peer != bob.peer_id else gone.set())
        with pytest.raises(TetherError):
            await say(alice, bob.peer_id, b"x" * 3_000_000)
        await gone.wait()
        assert await say(alice, carol.peer_id, b"still") == b"STILL"
        assert alice.paths()[carol.peer_id] is carols
        await alice.connect(behind(bob))
        assert await say(alice, bob.peer_id, b"anew") == b"ANEW"
