"""Gossip among fifteen nodes in five processes: what arrives, how soon, and the processor time of a delivery.

Sides: python -m benchmarks.transport.gossip ours | stock
"""

from __future__ import annotations

import itertools
import os
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio
from libp2p.abc import IHost
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from benchmarks.transport.contest import Contest, Figure, Goal, Run
from benchmarks.transport.nodes import described, open_member, reached
from benchmarks.transport.processes import Answer, Process, Side, obey, python
from benchmarks.transport.stock import open_stock
from p2p.host.host import Host

PROCESSES: Final = 5
NODES: Final = 3
"""In each process."""
PER_S: Final = 20.0
"""Messages, of all nodes together."""
SECONDS: Final = 10.0
SIZE: Final = 1_600
"""An announcement of a worker with two models, its credential with it."""
LATE_S: Final = 3.0
"""What has not come by then counts as lost."""
DRAIN_S: Final = 60.0
TOPIC: Final = "benchmark"
HEAD: Final = struct.Struct("!dQ")
"""When it was sent, by the clock that all processes share; who sent it."""

FIGURES: Final = (
    Figure("delivered", "gossip, 15 nodes, 20 msg/s: delivered", "%", Goal(100.0, 100.0, of="ours")),
    Figure("p50", "gossip: to a node, p50", "ms"),
    Figure("p99", "gossip: to a node, p99", "ms", Goal(250.0, 50.0, at="most", of="ours")),
    Figure("cpu", "gossip: processor time a delivery", "ms", Goal(2.5, 1.5, at="most", of="ours")),
)


@contextmanager
def contests() -> Iterator[list[Contest]]:
    """Ours beside stock py-libp2p, which speaks the same GossipSub 1.1."""
    with ExitStack() as stack:
        yield [Contest(FIGURES, _swarm(stack, "ours"), {"py-libp2p": _swarm(stack, "stock")})]


def _swarm(stack: ExitStack, side: str) -> Run:
    """Everybody knows everybody, as the candidates of a region do."""
    processes = [stack.enter_context(python("benchmarks.transport.gossip", side)) for _ in range(PROCESSES)]
    nodes = [node for process in processes for node in process.hello["nodes"]]
    for process in processes:
        process.ask("connect", nodes=nodes)
    _together(processes, "join", neighbours=NODES * PROCESSES - 1)

    def run() -> Mapping[str, float]:
        before = sum(process.cpu_s() for process in processes)
        told = _together(processes, "publish", seconds=SECONDS, interval_s=NODES * PROCESSES / PER_S)
        time.sleep(LATE_S)
        cpu_s = sum(process.cpu_s() for process in processes) - before
        taken = sorted(itertools.chain(*(one["taken"] for one in _together(processes, "collect"))))
        sent = sum(one["sent"] for one in told)
        _together(processes, "drain")
        return {
            "delivered": 100.0 * len(taken) / (sent * (NODES * PROCESSES - 1)),
            "p50": 1e3 * taken[len(taken) // 2],
            "p99": 1e3 * taken[len(taken) * 99 // 100],
            "cpu": 1e3 * cpu_s / len(taken),
        }

    return run


def _together(processes: Sequence[Process], command: str, **arguments: Any) -> list[Answer]:
    for process in processes:
        process.tell(command, **arguments)
    return [process.answer() for process in processes]


@dataclass
class _Node:
    """publish: to the topic; connect: to a node of `hello`; neighbours: how many follow the topic, as it knows."""

    publish: Callable[[bytes], Awaitable[None]]
    connect: Callable[[Mapping[str, Any]], Awaitable[None]]
    neighbours: Callable[[], int]
    taken: list[float] = field(default_factory=list)

    def hear(self, data: bytes) -> None:
        sent, author = HEAD.unpack_from(data)
        if author != id(self):
            self.taken.append(time.monotonic() - sent)


async def _obey(nodes: Sequence[_Node], hello: Sequence[Mapping[str, object]]) -> None:
    async def connect(nodes: Sequence[Mapping[str, Any]]) -> None:
        for own in chosen:
            for other in nodes:
                await own.connect(other)

    async def join(neighbours: int) -> None:
        while any(node.neighbours() < neighbours for node in chosen):  # noqa: ASYNC110
            await trio.sleep(0.05)
        await trio.sleep(3.0)  # for meshes to be what they stay

    async def publish(seconds: float, interval_s: float) -> Answer:
        counts: list[int] = []

        async def one(node: _Node, offset_s: float) -> None:
            began = trio.current_time() + offset_s
            count = int(seconds / interval_s)
            for number in range(count):
                await trio.sleep_until(began + number * interval_s)
                await node.publish(HEAD.pack(time.monotonic(), id(node)) + os.urandom(SIZE - HEAD.size))
            counts.append(count)

        async with trio.open_nursery() as nursery:
            for number, node in enumerate(chosen):
                nursery.start_soon(one, node, interval_s * number / len(chosen))
        return {"sent": sum(counts)}

    async def collect() -> Answer:
        taken = [late for node in chosen for late in node.taken]
        for node in chosen:
            node.taken.clear()
        return {"taken": taken}

    async def drain() -> None:
        """What comes late is nothing that the other side's run should pay for."""
        with trio.move_on_after(DRAIN_S):
            while any(node.taken for node in chosen):
                for node in chosen:
                    node.taken.clear()
                await trio.sleep(1.0)

    chosen = nodes
    await obey(
        {"nodes": hello},
        {"connect": connect, "join": join, "publish": publish, "collect": collect, "drain": drain},
    )


@asynccontextmanager
async def _member(nursery: trio.Nursery) -> AsyncIterator[tuple[_Node, Mapping[str, object]]]:
    async with open_member() as host, host.subscribe(TOPIC, lambda _gossip: True) as news:
        node = _our_node(host)

        async def listen() -> None:
            async for gossip in news:
                node.hear(gossip.data)

        nursery.start_soon(listen)
        yield node, described(host)


def _our_node(host: Host) -> _Node:
    async def connect(other: Mapping[str, Any]) -> None:
        if other["peer"] > host.peer_id:
            await host.connect(reached(other["peer"], other["addresses"]))

    followers = host._meshes._pubsub.peer_topics
    return _Node(lambda data: host.publish(TOPIC, data), connect, lambda: len(followers.get(TOPIC, ())))


@asynccontextmanager
async def _stranger(nursery: trio.Nursery) -> AsyncIterator[tuple[_Node, Mapping[str, object]]]:
    """Its documentation's set-up, but a heartbeat each second, as GossipSub's specification has it."""
    async with open_stock() as host:
        router = GossipSub([PROTOCOL_ID_V11], 6, 4, 12, heartbeat_interval=1)
        pubsub = Pubsub(host, router)
        async with background_trio_service(pubsub), background_trio_service(router):
            await pubsub.wait_until_ready()
            news = await pubsub.subscribe(TOPIC)
            node = _stock_node(host, pubsub)

            async def listen() -> None:
                while True:
                    node.hear((await news.get()).data)

            nursery.start_soon(listen)
            yield node, {"peer": str(host.get_id()), "addresses": [str(host.get_addrs()[0])]}


def _stock_node(host: IHost, pubsub: Pubsub) -> _Node:
    async def connect(other: Mapping[str, Any]) -> None:
        if other["peer"] > str(host.get_id()):
            await host.connect(info_from_p2p_addr(Multiaddr(other["addresses"][0])))

    return _Node(
        lambda data: pubsub.publish(TOPIC, data), connect, lambda: len(pubsub.peer_topics.get(TOPIC, ()))
    )


async def _run(side: Callable[[trio.Nursery], Any]) -> None:
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(side(nursery)) for _ in range(NODES)]
        await _obey([node for node, _ in nodes], [hello for _, hello in nodes])
        nursery.cancel_scope.cancel()


async def _ours() -> None:
    await _run(_member)


async def _stock() -> None:
    await _run(_stranger)


if __name__ == "__main__":
    sides: dict[str, Side] = {"ours": _ours, "stock": _stock}
    trio.run(sides[sys.argv[1]], *sys.argv[2:])
