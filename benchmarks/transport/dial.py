"""From nothing to the first answer: dial, prove who one is, open a stream, ask one byte and get one back.

Twice: to a peer of which only the id is known, found through a DHT; and to one whose address is known from a ticket,
a roster or an earlier meeting, beside hyperdht where it keeps the route of an earlier meeting.
Sides: python -m benchmarks.transport.dial post | serve POST ADDRESS | client PEER ADDRESS POST ADDRESS
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

import trio

from benchmarks.transport.contest import Contest, Figure, Goal
from benchmarks.transport.nodes import described, open_member, reached
from benchmarks.transport.processes import Answer, Process, Side, node, obey, python
from benchmarks.transport.sink import answer_all, request
from p2p.host.host import Host
from p2p.identity import PeerId
from p2p.transport import PeerAddress

PROTOCOL: Final = "/tether/benchmark-sink/1"
DIALS: Final = 20
"""Of one run; their median counts."""
SETTLE_S: Final = 5.0
"""For members that came to find their place: a daemon is dialled long after its start."""
PAUSE_S: Final = 0.1
"""Between two dials, everybody's: what a connection sets off in the background has ended, on both sides."""
GOAL: Final = Goal(floor=1.5, aim=1.0, at="most")
FIGURES: Final = (
    Figure("found", "dial to first answer, found through the DHT", "ms", GOAL),
    Figure("found_cpu", "the same, processor time of both ends", "ms"),
    Figure("known", "dial to first answer, again", "ms", GOAL),
    Figure("known_cpu", "the same, processor time of both ends", "ms"),
)


@contextmanager
def contests() -> Iterator[list[Contest]]:
    with ExitStack() as stack:
        begin = stack.enter_context
        module = "benchmarks.transport.dial"
        testnet = begin(node("hyperdht.mjs", "testnet")).hello["bootstrap"][0]
        hyper = begin(node("hyperdht.mjs", "serve", testnet))
        hyper_client = begin(node("hyperdht.mjs", "client", testnet, hyper.hello["key"]))
        javascript = begin(node("libp2p.mjs", "serve"))
        javascript_client = begin(node("libp2p.mjs", "client", javascript.hello["address"]))
        post = begin(python(module, "post")).hello
        known = (post["peer"], post["addresses"][0])
        server = begin(python(module, "serve", *known))
        client = begin(python(module, "client", server.hello["peer"], server.hello["addresses"][0], *known))

        def ours() -> Mapping[str, float]:
            strangers = server.ask("strangers", count=DIALS)["peers"]
            found = _taken(server, client, lambda: client.ask("find", peers=strangers))
            known = _taken(server, client, lambda: client.ask("dial", count=DIALS))
            return _figures(found, known)

        def hyperdht() -> Mapping[str, float]:
            strangers = hyper.ask("strangers", count=DIALS)["keys"]
            found = _taken(hyper, hyper_client, lambda: hyper_client.ask("dial", keys=strangers))
            met = strangers[-1:] * DIALS
            known = _taken(hyper, hyper_client, lambda: hyper_client.ask("dial", keys=met))
            return _figures(found, known)

        def js_libp2p() -> Mapping[str, float]:
            return {"known": javascript_client.ask("dial", count=DIALS)["ms"]}

        yield [Contest(FIGURES, ours, {"hyperdht": hyperdht, "js-libp2p": js_libp2p})]


def _taken(server: Process, client: Process, dial: Callable[[], Answer]) -> tuple[float, float]:
    """The median of one command's dials and the processor time of one, in milliseconds."""
    before = server.cpu_s() + client.cpu_s()
    ms: float = dial()["ms"]
    return ms, (server.cpu_s() + client.cpu_s() - before) / DIALS * 1e3


def _figures(found: tuple[float, float], known: tuple[float, float]) -> Mapping[str, float]:
    return {"found": found[0], "found_cpu": found[1], "known": known[0], "known_cpu": known[1]}


async def _post() -> None:
    """A member whom both others know, as any node of the DHT."""
    async with open_member() as host:
        await obey(described(host), {})


async def _serve(post: str, at: str) -> None:
    async with open_member() as host:
        host.handle(PROTOCOL, answer_all)
        await host.connect(reached(post, [at]))
        async with trio.open_nursery() as nursery:
            met = trio.Event()

            async def stranger(leave: trio.Event, task_status: trio.TaskStatus[PeerId]) -> None:
                async with open_member() as another:
                    another.handle(PROTOCOL, answer_all)
                    await another.connect(reached(post, [at]))
                    task_status.started(another.peer_id)
                    await leave.wait()

            async def strangers(count: int) -> Answer:
                """Members whom no client has met, in place of the last ones; returned once the DHT knows them."""
                nonlocal met
                met.set()
                met = trio.Event()
                peers = [await nursery.start(stranger, met) for _ in range(count)]
                for peer in peers:
                    while await host.find_peer(peer) is None:  # noqa: ASYNC110
                        await trio.sleep(PAUSE_S)
                await trio.sleep(SETTLE_S)
                return {"peers": peers}

            await obey(described(host), {"strangers": strangers})
            nursery.cancel_scope.cancel()


async def _client(peer: str, address: str, post: str, at: str) -> None:
    async with open_member() as host:
        await host.connect(reached(post, [at]))
        server = reached(peer, [address])

        async def dial(count: int) -> Answer:
            return {"ms": statistics.median([await _dial(host, server) for _ in range(count)])}

        async def find(peers: list[str]) -> Answer:
            return {"ms": statistics.median([await _find(host, PeerId(peer)) for peer in peers])}

        await obey({}, {"dial": dial, "find": find})


async def _dial(host: Host, server: PeerAddress) -> float:
    began = time.perf_counter()
    await host.connect(server)
    stream = await host.open_stream(server.peer, PROTOCOL)
    await request(stream, 1, 1)
    taken_s = time.perf_counter() - began
    await host.disconnect(server.peer)
    await trio.sleep(PAUSE_S)
    return taken_s * 1e3


async def _find(host: Host, peer: PeerId) -> float:
    """A stranger may have dialled this node while it looked itself up on the DHT: that connection goes first."""
    while True:
        await host.disconnect(peer)
        await trio.sleep(PAUSE_S)
        if peer not in host.peers():
            break
    began = time.perf_counter()
    found = await host.find_peer(peer)
    assert found is not None
    return (time.perf_counter() - began) * 1e3 + await _dial(host, found)


if __name__ == "__main__":
    sides: dict[str, Side] = {"post": _post, "serve": _serve, "client": _client}
    trio.run(sides[sys.argv[1]], *sys.argv[2:])
