"""A machine whose addresses come and go, with a clock and interfaces of the test's own."""

from __future__ import annotations

import ipaddress

import trio
import trio.testing

from p2p.host.addresses import IpAddress
from p2p.host.roaming import LOOK_S, Roaming
from p2p.host.switch import Switch
from p2p.identity import PeerId
from p2p.transport import PeerAddress
from tests.p2p.hosts import until
from tests.p2p.reach.switches import open_switches
from tests.swarms import make_swarm


def ips(*texts: str) -> tuple[IpAddress, ...]:
    return tuple(ipaddress.ip_address(text) for text in ("127.0.0.1", *texts))


class Laptop:
    """The interfaces as the test says, and what roaming makes of them."""

    def __init__(self, switch: Switch, *texts: str) -> None:
        self.now = ips(*texts)
        self.moves = self.news = 0
        self.roaming = Roaming(switch, lambda: self.now)
        self.roaming.moved.append(self._moved)
        self.roaming.announced.append(self._announced)

    def _moved(self) -> None:
        self.moves += 1

    def _announced(self) -> None:
        self.news += 1


async def test_connections_from_a_lost_address_end_and_their_peers_are_dialled_again() -> None:
    async with open_switches(make_swarm(2), 2) as (alice, bob), trio.open_nursery() as nursery:
        laptop = Laptop(alice, "127.0.0.77", "10.0.0.1")
        path = alice.path(bob.own)
        assert path is not None and path.local is not None
        laptop.roaming._gone.add(path.local.host)
        news: list[tuple[PeerId, bool]] = []
        alice.watch(lambda peer, up: news.append((peer, up)))
        nursery.start_soon(laptop.roaming.run)
        laptop.now = tuple(ip for ip in ips("10.0.0.2") if str(ip) != path.local.host)
        laptop.roaming.look_again()
        await until(lambda: (bob.own, True) in news)
        assert news == [(bob.own, False), (bob.own, True)]
        assert laptop.moves == 1
        nursery.cancel_scope.cancel()


async def test_a_machine_without_any_address_waits_for_the_next_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_switches(make_swarm(2), 1) as (alice,), trio.open_nursery() as nursery:
        laptop = Laptop(alice, "10.0.0.1")
        nursery.start_soon(laptop.roaming.run)
        await trio.sleep(3 * LOOK_S)
        assert (laptop.moves, laptop.news) == (0, 0)
        laptop.now = ips()
        await trio.sleep(2 * LOOK_S)
        assert laptop.moves == 0
        laptop.now = ips("10.0.9.1", "2a00::7")
        await trio.sleep(2 * LOOK_S)
        assert laptop.moves == 1
        nursery.cancel_scope.cancel()


async def test_other_addresses_to_announce_are_told_even_where_the_machine_stays(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_switches(make_swarm(1), 1) as (alice,), trio.open_nursery() as nursery:
        laptop = Laptop(alice, "10.0.0.1")
        nursery.start_soon(laptop.roaming.run)
        await trio.sleep(LOOK_S)
        alice.elsewhere.append(alice.bound)
        mapped = alice.bound()[0]
        alice.elsewhere.append(lambda: [type(mapped)("ip4", "11.0.0.1", 4001)])
        laptop.roaming.look_again()
        await trio.testing.wait_all_tasks_blocked()
        assert (laptop.moves, laptop.news) == (0, 1)
        assert alice.addresses()[0] == "/ip4/11.0.0.1/tcp/4001"
        nursery.cancel_scope.cancel()


async def test_a_peer_that_does_not_answer_at_once_is_tried_again_for_as_long_as_calls_wait() -> None:
    async with open_switches(make_swarm(2), 2) as (alice, bob):
        laptop = Laptop(alice, "10.0.0.1")
        calls: list[PeerAddress] = []
        connect = alice.connect

        async def busy(address: PeerAddress) -> None:
            calls.append(address)
            if len(calls) == 1:
                await alice.disconnect(bob.own)
                await connect(PeerAddress(PeerId(alice.own)))
            await connect(address)

        alice.connect = busy  # type: ignore[method-assign, assignment]
        async with trio.open_nursery() as nursery:
            laptop.roaming._redial([bob.own], nursery)
        assert len(calls) == 2 and alice.connected(bob.own)


async def test_an_interface_that_nobody_used_may_come_and_go(autojump_clock: trio.testing.MockClock) -> None:
    async with open_switches(make_swarm(2), 2) as (alice, bob), trio.open_nursery() as nursery:
        laptop = Laptop(alice, "10.0.0.1", "172.17.0.1")
        nursery.start_soon(laptop.roaming.run)
        for now in (ips("10.0.0.1"), ips("10.0.0.1", "172.18.0.1")):
            laptop.now = now
            laptop.roaming.look_again()
            await trio.testing.wait_all_tasks_blocked()
            assert alice.ips() == now
        assert laptop.moves == 0 and alice.connected(bob.own)
        nursery.cancel_scope.cancel()
