"""How long a node takes from the command to ready, and how much memory a daemon peaks at without its engine."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import Row, row, say
from cli.local_swarm import LocalNode, LocalSwarm

READY_S = 3.0
MEMORY_MB = 200.0


def measure(runs: int) -> list[Row]:
    """Found a swarm and join it, anew each run: new keys, new certificates, new processes."""
    founding: list[float] = []
    joining: list[float] = []
    founder_mb: list[float] = []
    worker_mb: list[float] = []
    for run in range(runs):
        with LocalSwarm() as swarm:
            founder = swarm.start("founder", roles="gateway,orchestrator")
            founding.append(_seconds_to_ready(founder))
            worker = swarm.start("worker", ticket=swarm.invite(founder), roles="worker")
            joining.append(_seconds_to_ready(worker))
            founder_mb.append(_peak_mb(founder))
            worker_mb.append(_peak_mb(worker))
        say(f"join {run + 1}/{runs}: founder {founding[-1]:.2f} s, worker {joining[-1]:.2f} s")
    return [
        row("join to ready, founder", "s", founding, at_most=READY_S),
        row("join to ready, worker with ticket", "s", joining, at_most=READY_S),
        row("peak memory, founder", "MB", founder_mb, at_most=MEMORY_MB),
        row("peak memory, worker without its engine", "MB", worker_mb, at_most=MEMORY_MB),
    ]


def _seconds_to_ready(node: LocalNode) -> float:
    """Seen from outside: from the start of the process to its ready line."""
    node.wait_ready()
    return node.seen_at("ready") - node.began


def _peak_mb(node: LocalNode) -> float:
    status = Path(f"/proc/{node.pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024
