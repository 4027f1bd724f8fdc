"""Reservations over time: renewed, found again, and the connections that carry them kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from p2p.host import idle
from p2p.host.addresses import parse_circuit
from p2p.host.host import Host
from p2p.host.settings import RelayTerms
from p2p.identity import PeerId
from tests.p2p.hosts import ANYWHERE, QUICK, address, echo, open_node, until
from tests.p2p.relay.people import behind, circuits, open_hidden, open_relay, run_relay
from tests.swarms import make_swarm


async def test_a_reservation_is_renewed_before_it_runs_out(mock_clock: MockClock) -> None:
    mock_clock.rate = 1.0
    swarm = make_swarm(3)
    terms = RelayTerms()
    async with (
        open_relay(swarm, terms=terms) as relay,
        open_hidden(swarm, 1, relay) as alice,
        open_hidden(swarm, 2, relay) as bob,
    ):
        bob.handle("/echo/1", echo)
        for _ in range(3):
            mock_clock.jump(0.6 * terms.reservation_s)
            await trio.sleep(0.5)  # of virtual time: keeper and relay have theirs
        await alice.connect(behind(bob))
        stream = await alice.open_stream(bob.peer_id, "/echo/1")
        await stream.write(b"later")
        assert await stream.read(100) == b"LATER"


async def test_another_relay_takes_the_place_of_one_that_is_gone() -> None:
    swarm = make_swarm(5)
    async with open_relay(swarm, 0) as first, trio.open_nursery() as nursery:
        stop = trio.Event()
        second: Host = await nursery.start(run_relay, swarm, 1, ANYWHERE, stop)
        async with open_hidden(swarm, 2, first, second) as alice, open_relay(swarm, 3) as third:
            await third.connect(address(first))
            assert held(alice) == {first.peer_id, second.peer_id}
            stop.set()
            await until(lambda: held(alice) == {first.peer_id, third.peer_id})


async def test_connections_that_carry_a_reservation_or_a_circuit_stay_beyond_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idle, "YOUNG_S", 0.0)
    swarm = make_swarm(4)
    frugal = replace(QUICK, idle_connections=0, idle_check_s=0.05)
    async with (
        open_relay(swarm, settings=frugal) as relay,
        open_hidden(swarm, 1, relay) as alice,
        open_hidden(swarm, 2, relay, reserve=False) as bob,
    ):
        await bob.connect(behind(alice))
        async with open_node(swarm, 3) as idler:
            await idler.connect(address(relay))
            await until(lambda: not idler.peers())
        assert relay.peers() == {alice.peer_id, bob.peer_id}
        assert held(alice) == {relay.peer_id} and bob.paths()[alice.peer_id].relay == relay.peer_id


def held(host: Host) -> set[PeerId]:
    return {parse_circuit(text).relay for text in circuits(host)}
