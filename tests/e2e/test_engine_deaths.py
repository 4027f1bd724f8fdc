"""An engine that dies inside a daemon: its clients see nothing of it, and the daemon is the same one afterwards."""

from __future__ import annotations

import os
import signal

import psutil

from cli.local_swarm import LocalNode, LocalSwarm, until
from tests.e2e.asking import a_swarm, stream

RATE = 40.0


def engine_of(node: LocalNode) -> int:
    """Its engine's process."""
    [engine] = [
        child for child in psutil.Process(node.pid).children() if "inference.llama_process" in child.cmdline()
    ]
    return int(engine.pid)


def test_an_engine_that_dies_in_mid_answer_is_started_anew_and_the_answer_goes_on(swarm: LocalSwarm) -> None:
    founder, [worker] = a_swarm(swarm, rate=RATE)
    undisturbed = stream(founder)
    first = engine_of(worker)
    disturbed = stream(founder, at=10, do=lambda: os.kill(first, signal.SIGABRT))
    assert disturbed.text == undisturbed.text
    assert disturbed.tether["attempts"] >= 2
    assert set(disturbed.tether["workers"]) == {worker.node_id}
    assert worker.process.poll() is None
    worker.wait_event("engine_died", pid=first)
    assert until(lambda: engine_of(worker), "the next engine") != first
