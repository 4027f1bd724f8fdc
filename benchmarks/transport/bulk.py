"""One stream of many bytes, from one process to another: megabytes a second, and the processor time that both took.

Sides: python -m benchmarks.transport.bulk serve | client PEER ADDRESS
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

import trio

from benchmarks.transport.contest import Contest, Figure, Goal, Run
from benchmarks.transport.nodes import described, open_member, reached
from benchmarks.transport.processes import Answer, Process, Side, node, obey, python
from benchmarks.transport.sink import answer_all, request
from p2p.transport import Stream

PROTOCOL: Final = "/tether/benchmark-sink/1"
SIZE: Final = 128 * 1024 * 1024
CHUNK: Final = 64 * 1024
"""A write of everybody's: what programs usually hand over."""
FIGURES: Final = (
    Figure("rate", "bulk, one stream", "MB/s", Goal(floor=2.0, aim=4.0)),
    Figure("cpu", "bulk, processor time of both ends", "s/GB"),
)


@contextmanager
def contests() -> Iterator[list[Contest]]:
    """Ours beside hyperdht, which the goal is about, stock py-libp2p and js-libp2p."""
    with ExitStack() as stack:
        begin = stack.enter_context
        testnet = begin(node("hyperdht.mjs", "testnet")).hello["bootstrap"][0]
        hyper = begin(node("hyperdht.mjs", "serve", testnet))
        javascript = begin(node("libp2p.mjs", "serve"))
        stock = begin(python("benchmarks.transport.stock", "serve"))
        ours = begin(python("benchmarks.transport.bulk", "serve"))
        clients = {
            "hyperdht": (hyper, begin(node("hyperdht.mjs", "client", testnet, hyper.hello["key"]))),
            "py-libp2p": (
                stock,
                begin(python("benchmarks.transport.stock", "client", stock.hello["address"])),
            ),
            "js-libp2p": (javascript, begin(node("libp2p.mjs", "client", javascript.hello["address"]))),
        }
        client = begin(
            python("benchmarks.transport.bulk", "client", ours.hello["peer"], *ours.hello["addresses"])
        )
        peers = {name: _run(*sides) for name, sides in clients.items()}
        yield [Contest(FIGURES, _run(ours, client), peers)]


def _run(server: Process, client: Process) -> Run:
    def run() -> Mapping[str, float]:
        before = server.cpu_s() + client.cpu_s()
        seconds = client.ask("bulk", bytes=SIZE, chunk=CHUNK)["seconds"]
        cpu_s = server.cpu_s() + client.cpu_s() - before
        return {"rate": SIZE / 1e6 / seconds, "cpu": cpu_s / (SIZE / 1e9)}

    return run


async def _serve() -> None:
    async with open_member() as host:
        host.handle(PROTOCOL, answer_all)
        await obey(described(host), {})


async def _client(peer: str, *addresses: str) -> None:
    async with open_member() as host:
        await host.connect(reached(peer, addresses))
        stream: Stream = await host.open_stream(reached(peer, addresses).peer, PROTOCOL)

        async def bulk(bytes: int, chunk: int) -> Answer:
            began = time.perf_counter()
            await request(stream, bytes, chunk)
            return {"seconds": time.perf_counter() - began}

        await obey({}, {"bulk": bulk})


if __name__ == "__main__":
    sides: dict[str, Side] = {"serve": _serve, "client": _client}
    trio.run(sides[sys.argv[1]], *sys.argv[2:])
