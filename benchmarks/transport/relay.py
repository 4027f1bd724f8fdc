"""Calls over a relay beside calls to the relay itself, and how often and how soon two routers are punched through.

Sides: python -m benchmarks.transport.relay relay | callee PEER ADDRESS… | caller CALLEE WAY RELAY ADDRESS…
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

import trio

from benchmarks.punch import TRIES, attempts
from benchmarks.report import say
from benchmarks.transport.contest import Contest, Figure, Goal, Run
from benchmarks.transport.nodes import described, open_member, reached
from benchmarks.transport.processes import Answer, Process, Side, log_to_stderr, obey, python
from p2p.host import HostSettings
from p2p.host.addresses import is_circuit
from p2p.host.host import Host
from p2p.host.paths import Reachability
from p2p.host.settings import RelayTerms
from p2p.identity import PeerId
from p2p.messages import Message, Method
from p2p.rpc import Rpc
from p2p.transport import PeerAddress
from tests.net.internet import Nat
from tests.net.namespaces import missing

CALLS: Final = 1_000
SIZE_BYTES: Final = 1024
BULK: Final = 16
BULK_BYTES: Final = 1 << 20


class Payload(Message, frozen=True):
    data: bytes = b""
    answer_bytes: int = 0


ECHO: Final = Method("echo", Payload, Payload)


@contextmanager
def contests() -> Iterator[list[Contest]]:
    with ExitStack() as stack:
        begin = stack.enter_context
        relay = begin(python("benchmarks.transport.relay", "relay"))
        where = (relay.hello["peer"], *relay.hello["addresses"])
        callee = begin(python("benchmarks.transport.relay", "callee", *where))
        behind = (callee.hello["peer"], callee.hello["addresses"][0])
        caller = begin(python("benchmarks.transport.relay", "caller", *behind, *where))
        yield [_calls(caller, callee.hello["peer"], relay.hello["peer"]), *_punched()]


def _calls(caller: Process, callee: str, relay: str) -> Contest:
    def run(peer: str) -> Run:
        return lambda: caller.ask("measure", peer=peer)

    figures = (
        Figure("ms", "call over a relay, round trip", "ms", Goal(floor=4.0, aim=2.5, at="most")),
        Figure("rate", "answers of 1 MiB over a relay", "MB/s"),
    )
    return Contest(figures, run(callee), {"direct to the relay": run(relay)})


def _punched() -> list[Contest]:
    if why := missing():
        say(f"hole punching is left out: {why}")
        return []

    def run() -> Mapping[str, float]:
        taken = attempts(Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED, TRIES)
        slowest = max((took for took in taken if took is not None), default=float("inf"))
        return {"direct": len([took for took in taken if took is not None]), "slowest": slowest}

    figures = (
        Figure("direct", "punched, port-restricted pairs, of ten", "", Goal(TRIES, TRIES, of="ours")),
        Figure("slowest", "the slowest of the ten", "s", Goal(5.0, 2.0, at="most", of="ours")),
    )
    return [Contest(figures, run, warm_ups=0, runs=1)]


async def _serve(host: Host, nursery: trio.Nursery) -> None:
    async def echo(_peer: PeerId, asked: Payload) -> Payload:
        return Payload(bytes(asked.answer_bytes) or asked.data)

    rpc = Rpc(host)
    rpc.serve(ECHO, echo)
    await nursery.start(rpc.run)


async def _relay() -> None:
    """Its budget is out of the way: what is measured is its speed."""
    settings = HostSettings(relay=RelayTerms(bytes_per_s=1e9))
    async with open_member(settings=settings) as host, trio.open_nursery() as nursery:
        await _serve(host, nursery)
        host.reach.found(Reachability.PUBLIC)
        await obey(described(host), {})
        nursery.cancel_scope.cancel()


async def _callee(relay: str, *addresses: str) -> None:
    """Listens nowhere: there is no way to it but the relay."""
    async with open_member(listen=()) as host, trio.open_nursery() as nursery:
        await _serve(host, nursery)
        await host.connect(reached(relay, addresses))
        host.reach.found(Reachability.PRIVATE)
        while not any(map(is_circuit, host.addresses())):  # noqa: ASYNC110
            await trio.sleep(0.01)
        await obey(described(host), {})
        nursery.cancel_scope.cancel()


async def _caller(callee: str, way: str, relay: str, *addresses: str) -> None:
    async with open_member(listen=()) as host, trio.open_nursery() as nursery:
        rpc = Rpc(host)
        await nursery.start(rpc.run)
        await host.connect(reached(relay, addresses))
        await host.connect(PeerAddress(PeerId(callee), (way,)))

        async def measure(peer: str) -> Answer:
            request, taken = Payload(bytes(SIZE_BYTES)), []
            for _ in range(CALLS):
                asked = time.perf_counter()
                await rpc.ask(PeerId(peer), ECHO, request, timeout_s=10.0)
                taken.append(1e3 * (time.perf_counter() - asked))
            began = time.perf_counter()
            for _ in range(BULK):
                await rpc.ask(PeerId(peer), ECHO, Payload(answer_bytes=BULK_BYTES), timeout_s=30.0)
            rate = BULK * BULK_BYTES / 1e6 / (time.perf_counter() - began)
            return {"ms": statistics.median(taken), "rate": rate}

        await obey({}, {"measure": measure})
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    log_to_stderr()
    sides: dict[str, Side] = {"relay": _relay, "callee": _callee, "caller": _caller}
    trio.run(sides[sys.argv[1]], *sys.argv[2:])
