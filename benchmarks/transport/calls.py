"""Calls: one at a time, a hundred in flight, a thousand that stream, and tokens beside an artifact at full speed.

Sides: python -m benchmarks.transport.calls serve | client PEER ADDRESS… | serve-streams | client-streams ADDRESS, the
latter two of stock py-libp2p, which has streams where we have calls.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from benchmarks.transport.contest import Contest, Figure, Goal, Run
from benchmarks.transport.nodes import described, open_member, reached
from benchmarks.transport.processes import Answer, Process, Side, node, obey, python
from benchmarks.transport.stock import open_stock
from p2p.identity import PeerId
from p2p.messages import Message, Method
from p2p.rpc import Rpc, ServerCall

STREAMS: Final = TProtocol("/benchmark/chunks/1")
SEQUENTIAL: Final = 2_000
CONCURRENT: Final = 20_000
WIDTH: Final = 100
CALLS: Final = 1_000
CHUNKS: Final = 100
CHUNK_BYTES: Final = 100
PATIENCE_S: Final = 60.0
"""Stock streams do not all finish; what has by then is counted."""
TOKENS: Final = 400
TOKEN_S: Final = 0.005
ARTIFACT_BYTES: Final = 1 << 20


class Payload(Message, frozen=True):
    data: bytes = b""
    n: int = 0
    at_s: float = 0.0


ECHO: Final = Method("echo", Payload, Payload)
CHUNKED: Final = Method("chunks", Payload, Payload, priority=1)
TOKENED: Final = Method("tokens", Payload, Payload, priority=1)
ARTIFACT: Final = Method("artifact", Payload, Payload, priority=2)


@contextmanager
def contests() -> Iterator[list[Contest]]:
    """Ours beside @hyperswarm/rpc, and beside stock py-libp2p where calls stream."""
    with ExitStack() as stack:
        begin = stack.enter_context
        testnet = begin(node("hyperdht.mjs", "testnet")).hello["bootstrap"][0]
        hyper = begin(node("hyper_rpc.mjs", "serve", testnet))
        hyper_client = begin(node("hyper_rpc.mjs", "client", testnet, hyper.hello["key"]))
        stock = begin(python("benchmarks.transport.calls", "serve-streams"))
        stock_client = begin(python("benchmarks.transport.calls", "client-streams", stock.hello["address"]))
        ours = begin(python("benchmarks.transport.calls", "serve"))
        client = begin(
            python("benchmarks.transport.calls", "client", ours.hello["peer"], *ours.hello["addresses"])
        )
        yield [
            _one_at_a_time(client, hyper_client),
            _in_flight(client, hyper_client, 100, "100 B"),
            _in_flight(client, hyper_client, 1024, "1 KiB"),
            _streaming((ours, client), (stock, stock_client)),
            _beside_an_artifact(client),
        ]


def _one_at_a_time(client: Process, hyper: Process) -> Contest:
    def run(side: Process) -> Run:
        def once() -> Mapping[str, float]:
            answer = side.ask("sequential", size=1024, count=SEQUENTIAL)
            return {"rate": answer["perSecond"], "ms": answer["ms"]}

        return once

    figures = (
        Figure("rate", "calls of 1 KiB, one at a time", "/s", Goal(floor=0.5, aim=1.0)),
        Figure("ms", "calls of 1 KiB, one at a time, median", "ms"),
    )
    return Contest(figures, run(client), {"@hyperswarm/rpc": run(hyper)})


def _in_flight(client: Process, hyper: Process, size: int, said: str) -> Contest:
    def run(side: Process) -> Run:
        def once() -> Mapping[str, float]:
            return {"rate": side.ask("concurrent", size=size, count=CONCURRENT, width=WIDTH)["perSecond"]}

        return once

    figure = Figure("rate", f"calls of {said}, {WIDTH} in flight", "/s", Goal(floor=0.7, aim=1.2))
    return Contest((figure,), run(client), {"@hyperswarm/rpc": run(hyper)})


def _streaming(ours: tuple[Process, Process], stock: tuple[Process, Process]) -> Contest:
    def run(server: Process, client: Process) -> Run:
        def once() -> Mapping[str, float]:
            answer = client.ask("stream", calls=CALLS, chunks=CHUNKS, timeout_s=2 * PATIENCE_S)
            memory = max(server.rss_mb(), client.rss_mb())
            return {"rate": answer["perSecond"], "done": answer["done"], "memory": memory}

        return once

    figures = (
        Figure("rate", f"{CALLS} calls streaming {CHUNKS} chunks", "/s", Goal(floor=8.0, aim=15.0)),
        Figure("done", "of them finished", "", Goal(CALLS, CALLS, of="ours")),
        Figure("memory", "memory of the larger side", "MB"),
    )
    return Contest(figures, run(*ours), {"py-libp2p": run(*stock)}, warm_ups=0, runs=3)


def _beside_an_artifact(client: Process) -> Contest:
    def once() -> Mapping[str, float]:
        alone = client.ask("tokens", beside=False)
        beside = client.ask("tokens", beside=True)
        added = beside["p99"] - alone["p99"]
        return {"added": added, "alone": alone["p99"], "rate": beside["rate"]}

    figures = (
        Figure(
            "added",
            "token latency that a fetch adds, p99",
            "ms",
            Goal(floor=10.0, aim=3.0, at="most", of="ours"),
        ),
        Figure("alone", "token latency without it, p99", "ms"),
        Figure("rate", "the fetch meanwhile", "MB/s"),
    )
    return Contest(figures, once)


# ── Our sides ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _serve() -> None:
    async def echo(_peer: PeerId, request: Payload) -> Payload:
        return request

    async def chunks(call: ServerCall[Payload, Payload]) -> None:
        chunk = Payload(bytes(CHUNK_BYTES))
        for _ in range(call.request.n):
            await call.send(chunk)

    async def tokens(call: ServerCall[Payload, Payload]) -> None:
        for n in range(call.request.n):
            await call.send(Payload(bytes(CHUNK_BYTES), n, time.monotonic()))
            await trio.sleep(TOKEN_S)

    async def artifact(call: ServerCall[Payload, Payload]) -> None:
        piece = Payload(bytes(ARTIFACT_BYTES))
        while True:
            await call.send(piece)

    async with open_member() as host, trio.open_nursery() as nursery:
        rpc = Rpc(host)
        rpc.serve(ECHO, echo)
        rpc.serve_stream(CHUNKED, chunks)
        rpc.serve_stream(TOKENED, tokens)
        rpc.serve_stream(ARTIFACT, artifact)
        await nursery.start(rpc.run)
        await obey(described(host), {})
        nursery.cancel_scope.cancel()


class _Caller:
    """The commands of our client."""

    def __init__(self, rpc: Rpc, peer: PeerId) -> None:
        self._rpc = rpc
        self._peer = peer

    async def sequential(self, size: int, count: int) -> Answer:
        request = Payload(bytes(size))
        taken = []
        began = time.perf_counter()
        for _ in range(count):
            asked = time.perf_counter()
            await self._rpc.ask(self._peer, ECHO, request, timeout_s=10.0)
            taken.append(time.perf_counter() - asked)
        return {"perSecond": count / (time.perf_counter() - began), "ms": 1e3 * statistics.median(taken)}

    async def concurrent(self, size: int, count: int, width: int) -> Answer:
        request = Payload(bytes(size))

        async def caller() -> None:
            for _ in range(count // width):
                await self._rpc.ask(self._peer, ECHO, request, timeout_s=30.0)

        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(width):
                nursery.start_soon(caller)
        return {"perSecond": count / (time.perf_counter() - began)}

    async def stream(self, calls: int, chunks: int) -> Answer:
        done = 0

        async def one() -> None:
            nonlocal done
            async with self._rpc.stream(self._peer, CHUNKED, Payload(n=chunks)) as answers:
                heard = [answer async for answer in answers]
            done += len(heard) == chunks

        began = time.perf_counter()
        with trio.move_on_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for _ in range(calls):
                    nursery.start_soon(one)
        return {"perSecond": done * chunks / (time.perf_counter() - began), "done": done}

    async def tokens(self, beside: bool) -> Answer:
        fetched = 0

        async def fetch() -> None:
            nonlocal fetched
            async with self._rpc.stream(self._peer, ARTIFACT, Payload()) as pieces:
                async for piece in pieces:
                    fetched += len(piece.data)

        late = []
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            if beside:
                nursery.start_soon(fetch)
                await trio.sleep(0.2)
            async with self._rpc.stream(self._peer, TOKENED, Payload(n=TOKENS)) as answers:
                async for token in answers:
                    late.append(1e3 * (time.monotonic() - token.at_s))
            nursery.cancel_scope.cancel()
        return {
            "p99": statistics.quantiles(late, n=100)[98],
            "rate": fetched / 1e6 / (time.perf_counter() - began),
        }


async def _client(peer: str, *addresses: str) -> None:
    async with open_member() as host, trio.open_nursery() as nursery:
        rpc = Rpc(host)
        await nursery.start(rpc.run)
        there = reached(peer, addresses)
        await host.connect(there)
        caller = _Caller(rpc, there.peer)
        commands = (caller.sequential, caller.concurrent, caller.stream, caller.tokens)
        await obey({}, {command.__name__: command for command in commands})
        nursery.cancel_scope.cancel()


# ── Stock py-libp2p, a stream for each call ──────────────────────────────────────────────────────────────────────────


async def _serve_streams() -> None:
    async def answer(stream: INetStream) -> None:
        for _ in range(int.from_bytes(await stream.read(2), "big")):
            await stream.write(bytes(CHUNK_BYTES))
        await stream.close()

    async with open_stock() as host:
        host.set_stream_handler(STREAMS, answer)
        await obey({"address": str(host.get_addrs()[0])}, {})


async def _client_streams(address: str) -> None:
    info = info_from_p2p_addr(Multiaddr(address))
    async with open_stock() as host:
        await host.connect(info)

        async def stream(calls: int, chunks: int) -> Answer:
            done = 0

            async def one() -> None:
                nonlocal done
                try:
                    stream = await host.new_stream(info.peer_id, [STREAMS])
                    await stream.write(chunks.to_bytes(2, "big"))
                    missing = chunks * CHUNK_BYTES
                    while missing:
                        data = await stream.read(missing)
                        if not data:
                            return
                        missing -= len(data)
                    await stream.close()
                except BaseLibp2pError:
                    return
                done += 1

            began = time.perf_counter()
            with trio.move_on_after(PATIENCE_S):
                async with trio.open_nursery() as nursery:
                    for _ in range(calls):
                        nursery.start_soon(one)
            return {"perSecond": done * chunks / (time.perf_counter() - began), "done": done}

        await obey({}, {"stream": stream})


if __name__ == "__main__":
    sides: dict[str, Side] = {
        "serve": _serve,
        "client": _client,
        "serve-streams": _serve_streams,
        "client-streams": _client_streams,
    }
    trio.run(sides[sys.argv[1]], *sys.argv[2:])
