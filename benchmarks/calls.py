"""Calls between two peers in two processes: messages a second, one at a time and a hundred in flight.

The peer beside ours is the stream that a call goes over, used bare: a fixed-size echo on one libp2p stream.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from benchmarks.report import Row, row, say
from p2p.host import open_host
from p2p.identity import NodeKey, PeerId
from p2p.membership import Issuer, admit, appoint, member_passport, swarm_id_of
from p2p.messages import Message, Method
from p2p.rpc import Rpc
from p2p.transport import Network, PeerAddress, Stream

AUTHORITY: Final = NodeKey(b"benchmark authority key, no use.")
ECHO_PROTOCOL: Final = "/tether/benchmark-echo/1"
SIZE: Final = 100
SEQUENTIAL: Final = 500
CONCURRENT: Final = 100
CONCURRENT_CALLS: Final = 5_000


class Echo(Message, frozen=True):
    data: bytes


ECHO: Final = Method("echo", Echo, Echo)


def measure(runs: int) -> list[Row]:
    """Start a peer in a process of its own, and call it."""
    command = [sys.executable, "-m", "benchmarks.calls"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        node_id, address = peer.stdout.readline().split()
        try:
            return trio.run(_measure, PeerAddress(PeerId(node_id), (address,)), runs)
        finally:
            peer.stdin.close()


async def _measure(peer: PeerAddress, runs: int) -> list[Row]:
    one: list[float] = []
    many: list[float] = []
    bare: list[float] = []
    async with _node() as network, trio.open_nursery() as nursery:
        rpc = Rpc(network)
        await nursery.start(rpc.run)
        await network.connect(peer)
        await _sequential(rpc, peer.peer)
        for run in range(runs):
            one.append(SEQUENTIAL / await _sequential(rpc, peer.peer))
            bare.append(SEQUENTIAL / await _bare(network, peer.peer))
            many.append(CONCURRENT_CALLS / await _concurrent(rpc, peer.peer))
            say(
                f"calls {run + 1}/{runs}: {one[-1]:.0f}/s one at a time, {many[-1]:.0f}/s with {CONCURRENT} in flight"
            )
        nursery.cancel_scope.cancel()
    return [
        row(f"calls of {SIZE} B, one at a time", "/s", one, peer=bare, peer_name="bare libp2p stream"),
        row(f"calls of {SIZE} B, {CONCURRENT} in flight", "/s", many),
    ]


async def _sequential(rpc: Rpc, peer: PeerId) -> float:
    began = time.perf_counter()
    for _ in range(SEQUENTIAL):
        await rpc.ask(peer, ECHO, Echo(bytes(SIZE)), timeout_s=10.0)
    return time.perf_counter() - began


async def _concurrent(rpc: Rpc, peer: PeerId) -> float:
    async def caller() -> None:
        for _ in range(CONCURRENT_CALLS // CONCURRENT):
            await rpc.ask(peer, ECHO, Echo(bytes(SIZE)), timeout_s=30.0)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(CONCURRENT):
            nursery.start_soon(caller)
    return time.perf_counter() - began


async def _bare(network: Network, peer: PeerId) -> float:
    stream = await network.open_stream(peer, ECHO_PROTOCOL)
    began = time.perf_counter()
    for _ in range(SEQUENTIAL):
        await stream.write(bytes(SIZE))
        missing = SIZE
        while missing:
            missing -= len(await stream.read(missing))
    elapsed = time.perf_counter() - began
    await stream.close()
    return elapsed


@asynccontextmanager
async def _node() -> AsyncIterator[Network]:
    now = time.time()
    key = NodeKey(os.urandom(32))
    swarm_id = swarm_id_of(AUTHORITY)
    issuer = Issuer(AUTHORITY, swarm_id, appoint(AUTHORITY, AUTHORITY.node_id, serial=bytes(16), now=now))
    credential = issuer.certify(
        key.node_id, key.sealing_public, ("gateway",), ("bench",), serial=os.urandom(16), now=now
    )
    async with open_host(
        key,
        listen=("/ip4/127.0.0.1/tcp/0",),
        swarm_id=swarm_id,
        passport=lambda: member_passport(credential),
        admit=lambda shown, peer: admit(shown, peer, swarm_id, time.time()),
    ) as network:
        yield network


async def _serve() -> None:
    """The other process: answers until its input closes."""

    async def echo(_peer: PeerId, request: Echo) -> Echo:
        return request

    async def bare(stream: Stream) -> None:
        while data := await stream.read(SIZE):
            await stream.write(data)
        await stream.close()

    async with _node() as network, trio.open_nursery() as nursery:
        rpc = Rpc(network)
        rpc.serve(ECHO, echo)
        network.handle(ECHO_PROTOCOL, bare)
        await nursery.start(rpc.run)
        print(network.peer_id, network.addresses()[0], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_serve)
