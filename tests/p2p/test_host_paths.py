"""Over what connections run, and what peers see of this node."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing
from trio.testing import MockClock, memory_stream_pair

from p2p.errors import ADDRESS_IN_USE, TetherError
from p2p.host.addresses import AddressBook, TcpAddress, dialable, from_wire, parse_circuit, to_wire
from p2p.host.observed import Observed
from p2p.host.paths import Reach, Reachability
from p2p.host.sockets import Dial, connect_from, listen
from p2p.identity import PeerId
from tests.p2p.hosts import address, open_nodes, until
from tests.swarms import make_swarm

A, B, C = PeerId("A"), PeerId("B"), PeerId("C")
RELAY = make_swarm(1).keys[0].node_id
CIRCUIT = f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY}/p2p-circuit"


def at(port: int, host: str = "11.0.0.1") -> TcpAddress:
    return TcpAddress("ip4", host, port)


def test_an_address_behind_a_relay_is_read_written_and_dialled_last() -> None:
    assert str(parse_circuit(f"{CIRCUIT}/p2p/{RELAY}")) == CIRCUIT
    assert from_wire(to_wire([CIRCUIT])) == [CIRCUIT]
    book = AddressBook()
    book.learn(A, ["/ip4/192.0.2.2/tcp/1", CIRCUIT])
    book.worked(A, CIRCUIT)
    assert book.of(A) == ("/ip4/192.0.2.2/tcp/1", CIRCUIT)


@pytest.mark.parametrize(
    "text",
    [
        "/p2p-circuit",
        f"/p2p/{RELAY}/p2p-circuit",
        "/ip4/192.0.2.1/tcp/4001/p2p/nobody/p2p-circuit",
        f"{CIRCUIT}/p2p-circuit",
        f"{CIRCUIT}/ws",
        f"/ip4/0.0.0.0/tcp/4001/p2p/{RELAY}/p2p-circuit",
        f"{CIRCUIT}/p2p/{RELAY}/p2p-circuit/p2p/{RELAY}"[1:],
    ],
)
def test_what_is_no_address_behind_a_relay_is_not_dialled(text: str) -> None:
    assert dialable([text]) == []


def test_what_most_peers_see_comes_first_and_private_addresses_say_nothing() -> None:
    observed = Observed()
    assert not observed.saw(A, at(7, "10.0.0.1"))
    assert observed.saw(A, at(7)) and not observed.settled
    observed.saw(B, at(8))
    observed.saw(C, at(8))
    assert observed.outside() == (at(8), at(7)) and not observed.settled
    observed.saw(A, at(8))
    assert observed.outside() == (at(8),) and observed.settled
    observed.forget()
    assert observed.outside() == ()


async def test_this_process_dials_from_its_listening_port_and_no_other_may_listen_there() -> None:
    [listening], [other] = await listen(["/ip4/127.0.0.1/tcp/0"]), await listen(["/ip4/127.0.0.1/tcp/0"])
    with pytest.raises(TetherError) as error:
        await listen([str(listening.address)])
    assert error.value.code is ADDRESS_IN_USE
    async with await connect_from(listening.address, other.address) as stream:
        accepted = await other.listener.accept()
        assert accepted.socket.getpeername()[1] == listening.address.port
        with pytest.raises(TetherError):
            await listen([str(listening.address)])
        await accepted.aclose()
        assert stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    for one in (listening, other):
        await one.listener.aclose()


async def test_the_ends_of_a_direct_connection_are_known_on_both_sides() -> None:
    async with open_nodes(make_swarm(2), 2) as (alice, bob):
        await alice.connect(address(bob))
        await until(lambda: alice.peer_id in bob.paths())
        here, there = alice.paths()[bob.peer_id], bob.paths()[alice.peer_id]
        assert (here.local, here.remote) == (there.remote, there.local)
        assert here.relay is there.relay is None


async def test_who_waits_for_a_verdict_is_woken_by_another_one() -> None:
    reach = Reach()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reach.changed)
        await trio.testing.wait_all_tasks_blocked()
        reach.found(Reachability.UNKNOWN)
        reach.found(Reachability.PRIVATE)
    assert reach.verdict is Reachability.PRIVATE


async def test_a_dial_under_way_takes_addresses_that_are_learned_meanwhile(autojump_clock: MockClock) -> None:
    near, _ = memory_stream_pair()

    async def connect(address: str) -> trio.abc.Stream:
        if address == "silent":
            await trio.sleep_forever()
        if address == "closed":
            raise OSError("refused")
        return near

    dial = Dial(A, ["silent"], connect)
    async with dial.arrivals() as arrivals, trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 2)
        await trio.sleep(1)
        dial.also(["silent", "closed", "open"])
        assert not dial.has_tried(["open"])
        assert await arrivals.receive() == ("open", near)
    assert dial.has_tried(["silent", "open"]) and not dial.has_tried(["later"])
    dial.also(["later"])
    assert not dial.has_tried(["later"])
