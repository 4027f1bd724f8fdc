"""What a gateway adds to a request, and how many streams it carries, beside LiteLLM's proxy; in turn, in one run.

Ours: a gateway with its orchestrator and SQLite ledger in one process, a worker in another whose engine keeps the fixed
pace; every request is authenticated by key, counted against the key's limits, committed to the ledger, placed, sealed,
and settled. LiteLLM's: one process with a key and its limits in memory, before a mock of the same pace in another. What
is taken off both is what the mock takes when it is asked directly.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import trio

from benchmarks.gateway.client import Timing, Way, streams_per_s, times
from benchmarks.gateway.litellm import KEY, Missing, litellm_proxy
from benchmarks.gateway.pace import MODEL
from benchmarks.report import Row, say
from cli.local_swarm import LocalSwarm, until

ALONE: Final = 40
"""Requests of one run, one after the other."""
CROWD: Final = 16
CROWD_EACH: Final = 6
STREAMS: Final = 64
STREAMS_S: Final = 6.0
FLOOR: Final = 1 / 3
AIM: Final = 1 / 10
STREAMS_FLOOR: Final = 5.0
STREAMS_AIM: Final = 20.0
PEER: Final = "LiteLLM's proxy"
LIMITS: Final = {"requestsPerMinute": 10_000_000, "tokensPerMinute": 10_000_000_000}


def measure(runs: int) -> list[Row]:
    """No row where LiteLLM cannot be had: all of them are ratios."""
    with ExitStack() as open_:
        direct = Way("direct", open_.enter_context(_mock()))
        try:
            theirs = Way(PEER, open_.enter_context(litellm_proxy(MODEL, f"{direct.url}/v1")), KEY)
        except Missing as why:
            say(f"nothing is measured beside {PEER}: {why}")
            return []
        ours = open_.enter_context(_ours())
        return trio.run(_measure, direct, ours, theirs, runs)


async def _measure(direct: Way, ours: Way, theirs: Way, runs: int) -> list[Row]:
    for way in (direct, ours, theirs):
        await times(way, stream=True, callers=CROWD, each=4)
    whole: list[tuple[float, float]] = []
    first: list[tuple[float, float]] = []
    total: list[tuple[float, float]] = []
    crowd: list[tuple[float, float]] = []
    carried: list[tuple[float, float]] = []
    for run in range(runs):
        bases, mine, other = [
            [
                await times(way, stream=False, callers=1, each=ALONE),
                await times(way, stream=True, callers=1, each=ALONE),
                await times(way, stream=True, callers=CROWD, each=CROWD_EACH),
            ]
            for way in (direct, ours, theirs)
        ]
        added = [[_added(got, base) for got, base in zip(side, bases, strict=True)] for side in (mine, other)]
        whole.append((added[0][0].total_s, added[1][0].total_s))
        first.append((added[0][1].first_s, added[1][1].first_s))
        total.append((added[0][1].total_s, added[1][1].total_s))
        crowd.append((added[0][2].first_s, added[1][2].first_s))
        rates = [await streams_per_s(way, callers=STREAMS, seconds=STREAMS_S) for way in (ours, theirs)]
        carried.append((rates[0], rates[1]))
        say(
            f"gateway {run + 1}/{runs}: whole +{_ms(whole[-1])}, first text +{_ms(first[-1])}, "
            f"{CROWD} at once +{_ms(crowd[-1])}, {rates[0]:.0f} and {rates[1]:.0f} streams/s"
        )
    return [
        _added_row("added p50: whole answer, one at a time", whole),
        _added_row("added p50: first text of a stream, one at a time", first),
        _added_row("added p50: end of a stream, one at a time", total),
        _added_row(f"added p50: first text of a stream, {CROWD} at once", crowd),
        _carried_row(carried),
    ]


def _added(through: Sequence[Timing], direct: Sequence[Timing]) -> Timing:
    """What the medians differ by."""
    return Timing(
        statistics.median(one.first_s for one in through) - statistics.median(one.first_s for one in direct),
        statistics.median(one.total_s for one in through) - statistics.median(one.total_s for one in direct),
    )


def _ms(pair: tuple[float, float]) -> str:
    return f"{pair[0] * 1e3:.1f} and {pair[1] * 1e3:.1f} ms"


def _added_row(measure: str, runs: Sequence[tuple[float, float]]) -> Row:
    ratio = statistics.median(ours / theirs for ours, theirs in runs)
    ours, theirs = (statistics.median(run[side] * 1e3 for run in runs) for side in (0, 1))
    reach, floor = f"<= {AIM:.2f}x", f"<= {FLOOR:.2f}x"
    holds, reached = ratio <= FLOOR, ratio <= AIM
    return Row(measure, "ms", ours, theirs, PEER, ratio, reach, holds, len(runs), floor, reached)


def _carried_row(runs: Sequence[tuple[float, float]]) -> Row:
    ratio = statistics.median(ours / theirs for ours, theirs in runs)
    ours, theirs = (statistics.median(run[side] for run in runs) for side in (0, 1))
    reach, floor = f">= {STREAMS_AIM:g}x", f">= {STREAMS_FLOOR:g}x"
    holds, reached = ratio >= STREAMS_FLOOR, ratio >= STREAMS_AIM
    measure = f"SSE streams/s, {STREAMS} at once"
    return Row(measure, "/s", ours, theirs, PEER, ratio, reach, holds, len(runs), floor, reached)


@contextmanager
def _mock() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.gateway.mock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


@contextmanager
def _ours() -> Iterator[Way]:
    with LocalSwarm() as swarm:
        founder = swarm.start("founder", roles="gateway,orchestrator").wait_ready()
        ticket = swarm.invite(founder)
        slots = {"TETHER_WORKER__SLOTS": str(2 * STREAMS)}
        worker = swarm.start(
            "worker", ticket=ticket, roles="worker", environ=slots, program="benchmarks.gateway.worker"
        )
        worker.wait_ready()
        until(lambda: founder.control.get("/models"), "the worker to be known")
        founder.control.post("/tenants", {"tenant": "bench"})
        founder.control.post("/tenants/bench/limits", LIMITS)
        key = founder.control.post("/keys", {"tenant": "bench"})
        founder.control.post(f"/keys/{key['keyId']}/limits", LIMITS)
        yield Way("ours", founder.url, key["key"])
