"""What a host does for peers that are not ours: libp2p's own small protocols."""

from __future__ import annotations

import os

from libp2p.identity.identify.pb.identify_pb2 import Identify

from p2p.host.framing import Frames
from p2p.host.kad.distance import peer_of
from p2p.transport import Stream
from tests.p2p.hosts import address, echo, open_nodes
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


async def read_exactly(stream: Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.read(count - len(data))
    return data
