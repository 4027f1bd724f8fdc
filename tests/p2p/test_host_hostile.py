"""Hostile peers at a real host's socket: each is dropped, and honest calls go on."""

from __future__ import annotations

import pytest
import trio

from p2p.host.connection import agree
from p2p.host.errors import HOSTILE_BYTES
from p2p.host.handshake import Gate
from p2p.host.host import Host
from p2p.host.link import Link
from p2p.host.scores import HALF_LIFE_S, HELD_APART_S, NETWORK_LIMIT, TABLE, Door, Scores, network_of
from p2p.host.yamux.budget import MAX_STREAMS, MAX_WINDOW
from p2p.host.yamux.frames import DATA, GO_AWAY, HEADER, HEADER_BYTES, PING, SYN, WINDOW_UPDATE, header
from tests.p2p.hosts import address, echo, open_nodes, until
from tests.swarms import MadeSwarm, make_swarm

ECHO = "/echo/1"
MALLORY = 2


async def dial(host: Host) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", int(host.addresses()[0].rpartition("/")[2]))


async def muxed(host: Host, swarm: MadeSwarm) -> Link:
    """A member's connection, past the agreement on yamux, for whatever it wants to send."""
    gate = Gate(swarm.keys[MALLORY], lambda: swarm.passport(MALLORY), swarm.admit)
    secured = await gate.dial(await dial(host), host.peer_id)
    await agree(secured, outbound=True)
    return secured.link


async def last_words(link: Link) -> list[tuple[int, int]]:
    """(type, length) of all that the host still says."""
    data = b""
    try:
        while plain := await link.receive():
            data += plain
    except (trio.BrokenResourceError, OSError):
        pass
    said, at = [], 0
    while at + HEADER_BYTES <= len(data):
        _, kind, _, _, length = HEADER.unpack_from(data, at)
        said.append((kind, length))
        at += HEADER_BYTES + (length if kind == DATA else 0)
    return said


BREACHES = {
    "a version that nobody speaks": HEADER.pack(7, 0, 0, 1, 0),
    "a type that nobody knows": header(9, 0, 0, 0),
    "an oversized length": header(DATA, SYN, 1, 0xFFFFFFFF),
    "a stream under the host's parity": header(WINDOW_UPDATE, SYN, 2, 0),
    "a stream opened twice": header(WINDOW_UPDATE, SYN, 1, 0) * 2,
    "a window ignored": header(DATA, SYN, 1, MAX_WINDOW + 1) + bytes(300_000),
    "data for nothing": header(DATA, 0, 99, 4) + b"data",
    "garbage": b"\xa5" * 5_000,
}


@pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES)
async def test_a_member_that_breaks_the_rules_is_told_dropped_and_refused_for_a_while(breach: bytes) -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 2) as (alice, bob):
        bob.handle(ECHO, echo)
        await alice.connect(address(bob))
        calls = await alice.open_stream(bob.peer_id, ECHO)
        link = await muxed(bob, swarm)
        await until(lambda: swarm.keys[MALLORY].node_id in bob.peers())
        await link.send(breach)
        assert (GO_AWAY, 1) in await last_words(link)
        await link.close()
        await until(lambda: bob.peers() == {alice.peer_id})
        with pytest.raises(HOSTILE_BYTES):
            await muxed(bob, swarm)
        await calls.write(b"honest")
        assert await calls.read(100) == b"HONEST"


async def test_bytes_that_are_not_noise_end_a_members_connection() -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 2) as (alice, bob):
        raw = await dial(bob)
        gate = Gate(swarm.keys[MALLORY], lambda: swarm.passport(MALLORY), swarm.admit)
        await agree(await gate.dial(raw, bob.peer_id), outbound=True)
        await until(lambda: bool(bob.peers()))
        await raw.send_all(b"\x00\x20" + b"garbage after the handshake" * 4)
        await until(lambda: not bob.peers())
        await raw.aclose()
        await alice.connect(address(bob))


async def test_thousands_of_streams_that_say_nothing_cost_their_opener_alone() -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 2) as (alice, bob):
        bob.handle(ECHO, echo)
        await alice.connect(address(bob))
        calls = await alice.open_stream(bob.peer_id, ECHO)
        link = await muxed(bob, swarm)
        await link.send(b"".join(header(WINDOW_UPDATE, SYN, 2 * n + 1, 0) for n in range(10_000)))
        connection = bob._switch._standing.of(swarm.keys[MALLORY].node_id)
        assert connection is not None
        await until(lambda: connection.muxer.session._highest == 19_999)
        assert len(connection.muxer.session.flows) <= 2 * MAX_STREAMS
        await calls.write(b"honest")
        assert await calls.read(100) == b"HONEST"
        await link.close()


async def test_a_peer_that_pings_and_never_reads_is_dropped() -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 2) as (_, bob):
        link = await muxed(bob, swarm)
        await until(lambda: bool(bob.peers()))
        with trio.move_on_after(20):
            try:
                while True:
                    await link.send(header(PING, SYN, 0, 7) * 5_000)
            except (trio.BrokenResourceError, OSError):
                pass
        await until(lambda: not bob.peers())
        await link.close()


async def test_half_open_handshakes_and_slow_ones_leave_honest_calls_alone() -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 2) as (alice, bob):
        bob.handle(ECHO, echo)
        await alice.connect(address(bob))
        calls = await alice.open_stream(bob.peer_id, ECHO)
        sockets = [await dial(bob) for _ in range(100)]
        for number, socket in enumerate(sockets):
            if number % 2:
                await socket.send_all(b"\x13/multi")
        for _ in range(20):
            await calls.write(b"honest")
            assert await calls.read(100) == b"HONEST"
        for socket in sockets:
            await socket.aclose()


def test_marks_fade_and_the_table_is_bounded() -> None:
    scores = Scores(limit=1.0)
    scores.mark("m", 2.0, now=0.0)
    assert scores.refused("m", now=HALF_LIFE_S * 0.9)
    assert not scores.refused("m", now=HALF_LIFE_S)
    for number in range(TABLE + 10):
        scores.mark(str(number), 1.0, now=1.0)
    assert len(scores) == TABLE
    assert scores.weight("m", now=1.0) == 0.0


def test_a_network_whose_handshakes_fail_gets_few_at_a_time() -> None:
    door = Door(room=100)
    for _ in range(int(NETWORK_LIMIT) + 1):
        door.failed("192.0.2.0/24", now=0.0)
    assert door.lets_in("192.0.2.0/24", now=0.0)
    assert not door.lets_in("192.0.2.0/24", now=0.9 * HELD_APART_S)
    assert door.lets_in("192.0.2.0/24", now=1.1 * HELD_APART_S)
    with door.inside("198.51.100.0/24"):
        assert door.lets_in("198.51.100.0/24", now=0.0)


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("relayed", "relayed"),
    ],
)
def test_an_address_counts_for_its_network(host: str, network: str) -> None:
    assert network_of(host) == network
