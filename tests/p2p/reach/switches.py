"""Switches on loopback addresses that count as distinct networks: 127.0.N.1 for node N."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from p2p.host.addresses import TcpAddress
from p2p.host.handshake import Gate
from p2p.host.switch import Switch
from p2p.transport import PeerAddress
from tests.p2p.hosts import QUICK
from tests.swarms import MadeSwarm


@asynccontextmanager
async def open_switch(swarm: MadeSwarm, node: int) -> AsyncIterator[Switch]:
    key = swarm.keys[node]
    gate = Gate(key, lambda: swarm.passport(node), swarm.admit)
    switch = Switch(key.node_id, gate, QUICK, lambda: 128)
    await switch.bind([f"/ip4/127.0.{node}.1/tcp/0"])
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(switch.run)
            yield switch
            with trio.CancelScope(shield=True):
                await switch.close()
            nursery.cancel_scope.cancel()
    finally:
        switch.unbind()


@asynccontextmanager
async def open_switches(swarm: MadeSwarm, count: int) -> AsyncIterator[list[Switch]]:
    """The first one, which asks, is connected to all others, which it dialled."""
    async with AsyncExitStack() as stack:
        switches = [await stack.enter_async_context(open_switch(swarm, node)) for node in range(count)]
        for other in switches[1:]:
            await switches[0].connect(PeerAddress(other.own, tuple(map(str, other.bound()))))
        yield switches


def closed_port(switch: Switch) -> TcpAddress:
    """An address of the same machine at which nobody listens."""
    (bound,) = switch.bound()
    return TcpAddress("ip4", bound.host, 9 if bound.port != 9 else 10)
