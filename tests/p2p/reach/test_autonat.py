"""The shell: rounds of questions to real peers, what becomes of them, and when they are asked again."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import trio

from p2p.host.addresses import TcpAddress
from p2p.host.framing import Frames, framed
from p2p.host.paths import Reach, Reachability
from p2p.host.reach import autonat, plan
from p2p.host.reach.answering import Answering
from p2p.host.reach.autonat import AutoNat
from p2p.host.reach.messages import DIAL_REQUEST, MAX_BYTES, DialResponse, DialStatus, Status, write
from p2p.host.switch import Switch
from p2p.transport import PeerAddress, Stream
from tests.p2p.hosts import until
from tests.p2p.reach.switches import closed_port, open_switch, open_switches
from tests.swarms import make_swarm

PUBLIC, PRIVATE, UNKNOWN = Reachability.PUBLIC, Reachability.PRIVATE, Reachability.UNKNOWN


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((autonat, "SETTLE_S"), (autonat, "GAP_S"), (plan, "DOUBT_S"), (plan, "STEADY_S")):
        monkeypatch.setattr(module, name, 0.02)


class Asker:
    """asks about what `candidates` holds at the time."""

    def __init__(self, switch: Switch, *candidates: TcpAddress) -> None:
        self.candidates: Sequence[TcpAddress] = candidates
        self.reach = Reach()
        self.rounds = 0
        self.autonat = AutoNat(
            switch, self.reach, lambda: self.candidates, random.Random(1), concluded=self._concluded
        )

    def _concluded(self) -> None:
        self.rounds += 1


def deny(switch: Switch) -> None:
    """Says that nobody listens, whatever is so."""

    async def serve(stream: Stream) -> None:
        await Frames(stream, MAX_BYTES).one()
        await stream.write(framed(write(DialResponse(Status.OK, 0, DialStatus.DIAL_ERROR))))

    switch.handle(DIAL_REQUEST, serve, guests=False)


async def test_one_liar_among_three_changes_nothing() -> None:
    async with open_switches(make_swarm(4), 4) as (alice, *others), trio.open_nursery() as nursery:
        asker = Asker(alice, *alice.bound())
        for other in others[:2]:
            Answering(other, random.Random(1))
        deny(others[2])
        nursery.start_soon(asker.autonat.run)
        await until(lambda: asker.reach.verdict is PUBLIC)
        assert list(asker.autonat.confirmed()) == alice.bound() and not asker.autonat.refuted()
        assert "2 of 3 networks" in asker.autonat.finding().why
        nursery.cancel_scope.cancel()


async def test_a_port_that_closes_is_noticed_in_two_rounds_and_one_that_opens_too() -> None:
    async with open_switches(make_swarm(3), 3) as (alice, *others), trio.open_nursery() as nursery:
        asker = Asker(alice, closed_port(alice))
        for other in others:
            Answering(other, random.Random(1))
        nursery.start_soon(asker.autonat.run)
        await until(lambda: asker.reach.verdict is PRIVATE)
        assert closed_port(alice) in asker.autonat.refuted()
        asker.candidates = alice.bound()
        await until(lambda: asker.reach.verdict is PUBLIC)
        assert closed_port(alice) not in asker.autonat.refuted()
        deny(others[0])
        deny(others[1])
        before = asker.rounds
        await until(lambda: asker.reach.verdict is PRIVATE)
        assert asker.rounds - before >= 1
        nursery.cancel_scope.cancel()


async def test_a_node_that_nobody_can_tell_waits_for_its_first_witness_and_asks_it_at_once() -> None:
    swarm = make_swarm(3)
    async with open_switches(swarm, 1) as (alice,), trio.open_nursery() as nursery:
        asker = Asker(alice, *alice.bound())
        nursery.start_soon(asker.autonat.run)
        await until(lambda: asker.rounds == 1)
        assert asker.reach.verdict is UNKNOWN and "no peer" in asker.autonat.finding().why
        async with open_switch(swarm, 1) as bob:
            Answering(bob, random.Random(1))
            await alice.connect(PeerAddress(bob.own, tuple(map(str, bob.bound()))))
            await until(lambda: asker.reach.verdict is PUBLIC)
        nursery.cancel_scope.cancel()


async def test_a_machine_that_moved_knows_nothing_of_its_new_place() -> None:
    async with open_switches(make_swarm(2), 2) as (alice, bob), trio.open_nursery() as nursery:
        asker = Asker(alice, *alice.bound())
        Answering(bob, random.Random(1))
        nursery.start_soon(asker.autonat.run)
        await until(lambda: asker.reach.verdict is PUBLIC)
        asker.autonat.moved()
        assert asker.autonat.confirmed(), "a connection stands: the machine has not moved altogether"
        await alice.disconnect(bob.own)
        asker.candidates = ()
        asker.autonat.moved()
        assert not asker.autonat.confirmed()
        await until(lambda: asker.reach.verdict is UNKNOWN)
        assert "nothing to ask" in asker.autonat.finding().why
        nursery.cancel_scope.cancel()
