"""Real hosts on loopback for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from p2p.host import HostSettings, open_host
from p2p.host.host import Host
from p2p.identity import NodeKey, PeerId
from p2p.membership import Admission
from p2p.transport import Network, PeerAddress, Stream
from tests.swarms import MadeSwarm

ANYWHERE = "/ip4/127.0.0.1/tcp/0"
QUICK = HostSettings(dial_s=2.0, stream_s=2.0, handshake_s=2.0, query_s=1.0, lookup_s=3.0)


@asynccontextmanager
async def open_node(
    swarm: MadeSwarm,
    node: int,
    *,
    key: NodeKey | None = None,
    listen: str = ANYWHERE,
    passport: Callable[[], bytes] | None = None,
    admit: Callable[[bytes, PeerId], Admission] | None = None,
    settings: HostSettings = QUICK,
) -> AsyncIterator[Host]:
    async with open_host(
        key or swarm.keys[node],
        listen=[listen],
        swarm_id=swarm.swarm_id,
        passport=passport or (lambda: swarm.passport(node)),
        admit=admit or swarm.admit,
        settings=settings,
    ) as host:
        yield host


@asynccontextmanager
async def open_nodes(swarm: MadeSwarm, count: int) -> AsyncIterator[list[Host]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_node(swarm, node)) for node in range(count)]


def address(node: Network) -> PeerAddress:
    return PeerAddress(node.peer_id, node.addresses())


async def echo(stream: Stream) -> None:
    while data := await stream.read(1000):
        await stream.write(data.upper())
    await stream.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has no event of its own; the test's time limit ends it."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.01)
