"""`make bench` runs all of them, `make bench-NAME` one: python -m benchmarks [NAME] [--runs N]."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Final

from cyclopts import App, Parameter

from benchmarks import calls, hostile, idle, join, ledger, network, punch
from benchmarks.artifacts import suite as artifacts
from benchmarks.engine import suite as engine
from benchmarks.engine import torch_engine
from benchmarks.gateway import suite as gateway
from benchmarks.report import Row, publish
from benchmarks.transport import suite as transport

SUITES: Final[dict[str, Sequence[Callable[[int], list[Row]]]]] = {
    "main": (join.measure, network.measure, calls.measure),
    "join": (join.measure,),
    "network": (network.measure,),
    "calls": (calls.measure,),
    "hostile": (hostile.measure,),
    "idle": (idle.measure,),
    "ledger": (ledger.measure, gateway.measure),
    "gateway": (gateway.measure,),
    "engine": (engine.measure,),
    "engine-torch": (torch_engine.measure,),
    **{f"engine-{name}": (partial(engine.measure, models=[name]),) for name in engine.SHAPES},
    "punch": (punch.measure,),
    "transport": (transport.measure, punch.measure),
    "dht": (partial(transport.measure, subjects=["dht"]),),
    "artifacts": (artifacts.measure,),
    **{
        f"artifacts-{subject}": (partial(artifacts.measure, subjects=[subject]),)
        for subject in artifacts.SUBJECTS
    },
    **{
        f"transport-{subject}": (partial(transport.measure, subjects=[subject]),)
        for subject in transport.SUBJECTS
    },
}

app = App(name="benchmarks", help="Measure this machine's swarm. Suites: " + ", ".join(SUITES))


@app.default
def run(
    suite: str = "main",
    *,
    runs: Annotated[int, Parameter(help="How often each measure is taken; the median counts.")] = 5,
) -> None:
    """Run a suite, print its table, write benchmarks/out/SUITE.json."""
    if suite not in SUITES:
        print(f"error: there is no suite {suite}; there are {', '.join(SUITES)}.", file=sys.stderr)
        sys.exit(2)
    publish(suite, [row for measure in SUITES[suite] for row in measure(max(1, runs))])


if __name__ == "__main__":
    app()
