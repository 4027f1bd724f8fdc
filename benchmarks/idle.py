"""What a swarm costs that does nothing: the CPU of each of fifty daemons on this machine, engines included."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import psutil

from benchmarks.report import Row, row, say
from cli.local_swarm import LocalNode, LocalSwarm
from p2p.errors import TetherError

DAEMONS: Final = 50
DAEMON_BYTES: Final = 320 * 1024 * 1024
"""One with its engine and the built-in model; on a machine with less memory there are fewer."""
AT_A_TIME: Final = 4
"""Starts beside each other: a start is all CPU."""
SETTLE_S: Final = 60.0
"""After the last start: introductions, first lookups, and tables that fill."""
IDLE_S: Final = 60.0
LIMIT_PERCENT: Final = 2.0
START_S: Final = 300.0


def measure(runs: int) -> list[Row]:
    """One swarm, runs minutes of idleness. The rows' runs are minutes; within one, all daemons count."""
    count = min(DAEMONS, psutil.virtual_memory().available // DAEMON_BYTES)
    with LocalSwarm() as swarm:
        nodes = _start(swarm, count)
        time.sleep(SETTLE_S)
        medians, means, worst, engines = [], [], [], []
        for number in range(runs):
            spent = _idle(nodes)
            daemons = sorted(daemon for daemon, _ in spent)
            say(f"minute {number + 1}: {_told(daemons)}")
            medians.append(daemons[len(daemons) // 2])
            means.append(sum(daemons) / len(daemons))
            worst.append(daemons[-1])
            engines.append(sum(engine for _, engine in spent) / len(spent))
        resident = [_resident(node.pid) / 1e6 for node in nodes]
    title = f"{count} idle daemons"
    return [
        row(f"{title}: CPU of one, median", "% of a core", medians, at_most=LIMIT_PERCENT),
        row(f"{title}: CPU of one, mean", "% of a core", means, at_most=LIMIT_PERCENT),
        row(f"{title}: CPU of the busiest", "% of a core", worst, at_most=LIMIT_PERCENT),
        row(f"{title}: CPU of an engine, mean", "% of a core", engines),
        row(f"{title}: memory of one, median", "MB", resident),
    ]


def _start(swarm: LocalSwarm, count: int) -> list[LocalNode]:
    founder = swarm.start("d0").wait_ready()
    ticket = swarm.invite(founder, uses=2 * count)
    nodes = [founder]
    while len(nodes) < count:
        batch = range(len(nodes), min(count, len(nodes) + AT_A_TIME))
        started = [swarm.start(f"d{number}", ticket=ticket) for number in batch]
        nodes += [_ready(swarm, node, ticket) for node in started]
        say(f"{len(nodes)} daemons are ready")
    return nodes


def _ready(swarm: LocalSwarm, node: LocalNode, ticket: str) -> LocalNode:
    """On a machine that is busy with other things a dial may take too long: then it starts once more."""
    try:
        node.wait_event("phase", START_S, phase="ready")
    except TetherError:
        node = swarm.start(node.name, ticket=ticket)
        node.wait_event("phase", START_S, phase="ready")
    return node


def _idle(nodes: Sequence[LocalNode]) -> list[tuple[float, float]]:
    """Of each daemon, and of the processes that it started: percent of a core over the time."""
    began, before = time.monotonic(), [_spent(node.pid) for node in nodes]
    time.sleep(IDLE_S)
    took = time.monotonic() - began
    after = [_spent(node.pid) for node in nodes]
    return [
        (100 * (own - was_own) / took, 100 * (others - were_others) / took)
        for (was_own, were_others), (own, others) in zip(before, after, strict=True)
    ]


def _spent(pid: int) -> tuple[float, float]:
    """Seconds of CPU of a process, and of those below it."""
    return _seconds([pid]), _seconds(child.pid for child in psutil.Process(pid).children(recursive=True))


def _seconds(pids: Iterable[int]) -> float:
    """User and system time (proc(5), stat, fields 14 and 15)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    process = psutil.Process(pid)
    return float(sum(one.memory_info().rss for one in (process, *process.children(recursive=True))))


def _told(percents: Sequence[float]) -> str:
    middle = percents[len(percents) // 2]
    return f"{percents[0]:.2f} to {percents[-1]:.2f} % of a core a daemon, median {middle:.2f}"
