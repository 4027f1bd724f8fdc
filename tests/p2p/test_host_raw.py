"""A connection needs a trio stream beneath it, and nothing of a socket: relayed circuits are none."""

from __future__ import annotations

import trio
from trio.testing import memory_stream_pair

from p2p.host.connection import Connection, agree
from p2p.host.handshake import Gate
from p2p.host.streams import MuxedStream
from tests.swarms import make_swarm

ECHO = "/echo/1"


async def test_two_nodes_talk_over_a_pipe_that_is_no_socket() -> None:
    swarm = make_swarm(2)
    gates = [
        Gate(key, lambda node=node: swarm.passport(node), swarm.admit)  # type: ignore[misc]
        for node, key in enumerate(swarm.keys)
    ]
    near, far = memory_stream_pair()

    async def echo(protocol: str, stream: MuxedStream) -> None:
        await stream.write(await stream.read(100))
        await stream.close()

    async def listen(nursery: trio.Nursery) -> None:
        secured = await gates[1].accept(far)
        assert secured.peer == swarm.keys[0].node_id
        connection = await agree(secured, outbound=False)
        await connection.run({ECHO}, echo, nursery)

    async def dial(nursery: trio.Nursery) -> Connection:
        secured = await gates[0].dial(near, swarm.keys[1].node_id)
        connection = await agree(secured, outbound=True)
        nursery.start_soon(connection.run, (), echo, nursery)
        return connection

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, nursery)
        connection = await dial(nursery)
        stream, _ = await connection.open_stream([ECHO])
        await stream.write(b"over a pipe")
        assert await stream.read(100) == b"over a pipe"
        await connection.close()
