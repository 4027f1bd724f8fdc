"""What a host does for peers that are not ours: libp2p's own small protocols."""

from __future__ import annotations

import os

import pytest
from libp2p.identity.identify.pb.identify_pb2 import Identify

from p2p.host.framing import Frames
from p2p.host.kad.distance import peer_of
from p2p.host.streams import NotOffered
from p2p.transport import Stream
from tests.p2p.hosts import address, echo, open_node, open_nodes, until
from tests.swarms import make_swarm


async def test_a_ping_comes_back_whole_however_it_was_cut() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        await alice.connect(address(bob))
        stream = await alice.open_stream(bob.peer_id, "/ipfs/ping/1.0.0")
        for _ in range(2):
            payload = os.urandom(32)
            await stream.write(payload[:5])
            await stream.write(payload[5:])
            assert await read_exactly(stream, 32) == payload
        await stream.close()
        assert await stream.read(1) == b""


async def test_identify_tells_a_stranger_key_protocols_and_addresses() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        bob.handle("/tether/test/1", echo)
        await alice.connect(address(bob))
        stream = await alice.open_stream(bob.peer_id, "/ipfs/id/1.0.0")
        told = Identify.FromString(await Frames(stream, 8_192).one())
        assert peer_of(bytes((0, len(told.public_key))) + told.public_key) == bob.peer_id
        assert {"/tether/test/1", "/ipfs/ping/1.0.0", "/meshsub/1.1.0"} <= set(told.protocols)
        assert len(told.listen_addrs) == len(bob.addresses())


async def test_what_a_peer_spoke_before_is_not_asked_for_again_on_its_next_connection() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        bob.handle("/tether/test/1", echo)
        for _ in range(2):
            await alice.connect(address(bob))
            stream = await alice.open_stream(bob.peer_id, "/tether/test/1")
            await stream.write(b"hello")
            assert await read_exactly(stream, 5) == b"HELLO"
            await alice.disconnect(bob.peer_id)
        assert "/tether/test/1" in alice._switch.book.spoken(bob.peer_id)


async def test_a_peer_that_has_unlearnt_a_protocol_is_believed_and_asked_the_next_time() -> None:
    swarm = make_swarm(2)
    async with open_node(swarm, 0) as alice:
        async with open_node(swarm, 1) as bob:
            bob.handle("/tether/test/1", echo)
            await alice.connect(address(bob))
            await alice.open_stream(bob.peer_id, "/tether/test/1")
        await until(lambda: not alice.peers())
        async with open_node(swarm, 1) as bob:
            await alice.connect(address(bob))
            stream = await alice.open_stream(bob.peer_id, "/tether/test/1")
            with pytest.raises(NotOffered):
                await stream.read(1)
            with pytest.raises(NotOffered):
                await alice.open_stream(bob.peer_id, "/tether/test/1")


async def read_exactly(stream: Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.read(count - len(data))
    return data
