"""The DHT among forty nodes in ten processes: provide and find from every corner, then with 30 % of them killed.

Sides: python -m benchmarks.transport.dht nodes
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

import trio

from benchmarks.transport.contest import Contest, Figure, Goal
from benchmarks.transport.nodes import described, open_member, reached
from benchmarks.transport.processes import Answer, Process, Side, obey, python
from p2p.errors import TetherError
from p2p.host.host import Host
from p2p.host.kad.dht import MULTIHASH

PROCESSES: Final = 10
NODES: Final = 4
"""In each process."""
KILLED: Final = 3
"""Processes, by SIGKILL: twelve nodes at once."""
AT_ONCE: Final = 1
"""Operations in each process: all corners are busy, but it is not their queue that counts."""
CALM_PERCENT: Final = 20.0
CALM_WITHIN_S: Final = 60.0
"""A swarm that has just come up is all handshakes: it is measured once a process takes less than that of a core."""

Found = Sequence[tuple[bool, float]]

FIGURES: Final = (
    Figure("found", "DHT, 40 nodes: found", "%", Goal(100.0, 100.0, of="ours")),
    Figure("provide", "DHT: provide, p50", "ms"),
    Figure("provide_p99", "DHT: provide, p99", "ms", Goal(2_000.0, 1_000.0, at="most", of="ours")),
    Figure("keepers", "DHT: nodes that keep a record, the fewest", "nodes"),
    Figure("find", "DHT: find, p50", "ms"),
    Figure("find_p99", "DHT: find, p99", "ms", Goal(2_000.0, 1_000.0, at="most", of="ours")),
    Figure("left_found", "DHT, 12 of 40 killed: found", "%", Goal(100.0, 100.0, of="ours")),
    Figure("left", "DHT, 12 killed: find, p50", "ms"),
    Figure("left_p99", "DHT, 12 killed: find, p99", "ms", Goal(2_000.0, 1_000.0, at="most", of="ours")),
    Figure("new_p99", "DHT, 12 killed: provide, p99", "ms", Goal(4_000.0, 1_000.0, at="most", of="ours")),
    Figure("cpu", "DHT: processor time of a node in this minute", "s"),
)


@contextmanager
def contests() -> Iterator[list[Contest]]:
    """Each run has a swarm of its own, for it kills a third of it."""
    yield [Contest(FIGURES, _run, warm_ups=0)]


def _run() -> Mapping[str, float]:
    with ExitStack() as stack:
        processes = [
            stack.enter_context(python("benchmarks.transport.dht", "nodes")) for _ in range(PROCESSES)
        ]
        _join(processes)
        keys = {process: [os.urandom(32).hex() for _ in range(NODES)] for process in processes}
        provided = _together(processes, "provide", {one: {"keys": keys[one]} for one in processes})
        wanted = [key for of_one in keys.values() for key in of_one]
        keepers = _keepers(processes, wanted)
        found = _together(processes, "find", {one: {"keys": wanted} for one in processes})
        living = processes[KILLED:]
        for process in processes[:KILLED]:
            process.kill()
        wanted = [key for one in living for key in keys[one]]
        left = _together(living, "find", {one: {"keys": wanted} for one in living})
        fresh = {one: [os.urandom(32).hex() for _ in range(NODES)] for one in living}
        anew = _together(living, "provide", {one: {"keys": fresh[one]} for one in living})
        wanted = [key for of_one in fresh.values() for key in of_one]
        again = _together(living, "find", {one: {"keys": wanted} for one in living})
        cpu_s = sum(process.cpu_s() for process in living) / (len(living) * NODES)
    return {
        "found": _share(found),
        "provide": _percentile(provided, 50),
        "provide_p99": _percentile(provided, 99),
        "keepers": min(keepers),
        "find": _percentile(found, 50),
        "find_p99": _percentile(found, 99),
        "left_found": _share([*left, *again]),
        "left": _percentile(left, 50),
        "left_p99": _percentile(left, 99),
        "new_p99": _percentile(anew, 99),
        "cpu": cpu_s,
    }


def _join(processes: Sequence[Process]) -> None:
    """All by one bootstrap; then their own lookups fill their tables."""
    first, *_ = processes[-1].hello["nodes"]
    for process in processes:
        process.ask("join", first=first)
    deadline, spent = time.monotonic() + CALM_WITHIN_S, float("inf")
    while spent > CALM_PERCENT / 100 * len(processes) and time.monotonic() < deadline:
        before = sum(process.cpu_s() for process in processes)
        time.sleep(1.0)
        spent = sum(process.cpu_s() for process in processes) - before


def _together(
    processes: Sequence[Process], command: str, arguments: Mapping[Process, Mapping[str, Any]]
) -> Found:
    for process in processes:
        process.tell(command, **arguments[process])
    answers = [process.answer(300.0)["taken"] for process in processes]
    return [(bool(good), float(took)) for good, took in itertools.chain(*answers)]


def _keepers(processes: Sequence[Process], keys: Sequence[str]) -> list[int]:
    """Of each key, how many of the forty would tell of its provider."""
    kept = [process.ask("kept", keys=keys)["kept"] for process in processes]
    return [sum(of_key) for of_key in zip(*kept, strict=True)]


def _share(taken: Found) -> float:
    return 100.0 * statistics.fmean(good for good, _ in taken)


def _percentile(taken: Found, percent: int) -> float:
    times = sorted(took for _, took in taken)
    return 1e3 * times[min(len(times) - 1, len(times) * percent // 100)]


async def _nodes() -> None:
    async with _hosts() as hosts:
        own: dict[str, Host] = {}

        async def join(first: Mapping[str, Any]) -> None:
            for host in hosts:
                if host.peer_id != first["peer"]:
                    await host.connect(reached(first["peer"], first["addresses"]))

        async def provide(keys: Sequence[str]) -> Answer:
            """Each key by the next node of this process."""
            taken: list[tuple[bool, float]] = []

            async def one(key: str, host: Host) -> None:
                began = time.perf_counter()
                try:
                    await host.provide(bytes.fromhex(key))
                except TetherError:
                    taken.append((False, time.perf_counter() - began))
                else:
                    taken.append((True, time.perf_counter() - began))
                own[key] = host

            await _some_at_once(
                [(one, key, host) for key, host in zip(keys, itertools.cycle(hosts), strict=False)]
            )
            return {"taken": taken}

        async def find(keys: Sequence[str]) -> Answer:
            """All keys, in an order of this process's own, each by some node that did not provide it."""
            taken: list[tuple[bool, float]] = []

            async def one(key: str, host: Host) -> None:
                began = time.perf_counter()
                found = await host.find_providers(bytes.fromhex(key), limit=1)
                taken.append((bool(found), time.perf_counter() - began))

            chosen = random.sample(list(keys), len(keys))
            askers = [random.choice([host for host in hosts if host is not own.get(key)]) for key in chosen]
            await _some_at_once([(one, key, host) for key, host in zip(chosen, askers, strict=True)])
            return {"taken": taken}

        async def kept(keys: Sequence[str]) -> Answer:
            notes = [MULTIHASH + bytes.fromhex(key) for key in keys]
            now = trio.current_time()
            return {
                "kept": [sum(bool(host._dht._records.get(key, now, 1)) for host in hosts) for key in notes]
            }

        await obey(
            {"nodes": [described(host) for host in hosts]},
            {"join": join, "provide": provide, "find": find, "kept": kept},
        )


async def _some_at_once(jobs: Sequence[tuple[Any, str, Host]]) -> None:
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(job: tuple[Any, str, Host]) -> None:
        async with limit:
            await job[0](job[1], job[2])

    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(one, job)


@asynccontextmanager
async def _hosts() -> AsyncIterator[list[Host]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_member()) for _ in range(NODES)]


if __name__ == "__main__":
    sides: dict[str, Side] = {"nodes": _nodes}
    trio.run(sides[sys.argv[1]], *sys.argv[2:])
