"""What a file that comes at full speed takes from the tokens of a stream: whole daemons, on one machine.

The founder lends a file and is the gateway; the worker generates and fetches. Everything shares the machine's cores,
the lending side too, which a real swarm has elsewhere.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.network import stream_timing
from benchmarks.random_model import write_random_model
from benchmarks.transport.contest import Contest, Figure, Goal, Run
from cli.local_swarm import LocalNode, LocalSwarm, until
from inference.demo import MODEL_PATH

SIZE: Final = 3 << 30
"""Of the file: more than comes while a stream lasts. Its header is a model's, the rest of it zeros."""
FIGURES: Final = (
    Figure("rate", "tokens/s of a stream beside a fetch at full speed", "/s", Goal(floor=0.8, aim=0.95)),
    Figure("fetch", "the fetch, meanwhile", "MB/s"),
)


@contextmanager
def contests() -> Iterator[list[Contest]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tether-bench-")))
        model = folder / "random-100m.gguf"
        write_random_model(model, dim=768, layers=14, heads=12, ff=2048)
        swarm = stack.enter_context(LocalSwarm())
        founder = swarm.start("founder", roles="gateway,orchestrator").wait_ready()
        ticket = swarm.invite(founder)
        worker = swarm.start("worker", ticket=ticket, roles="worker", models=[str(model)]).wait_ready()
        served = until(lambda: founder.control.get("/models"), "the worker to be known")
        _finish(founder, founder.control.post("/publish", {"source": str(_large(folder)), "version": "1"}))
        name = str(served[0]["name"])
        yield [Contest(FIGURES, _beside(founder, worker, name), {"no fetch": _alone(founder, name)})]


def _beside(founder: LocalNode, worker: LocalNode, name: str) -> Run:
    def run() -> Mapping[str, float]:
        work = worker.control.post("/pull", {"model": "large@1"})
        events = worker.control.follow(f"/work/{work['work']}/events")
        next(event for event in events if event["doneBytes"] > 0)
        rate = stream_timing(founder, name).rate
        left = next(events)
        assert left["state"] == "running", "the file has to be larger"
        _finish(worker, work)
        worker.control.post("/cache/gc", {})
        return {"rate": rate, "fetch": left["bytesPerSecond"] / 1e6}

    return run


def _alone(founder: LocalNode, name: str) -> Run:
    return lambda: {"rate": stream_timing(founder, name).rate}


def _finish(node: LocalNode, work: Mapping[str, str]) -> None:
    *_, last = node.control.follow(f"/work/{work['work']}/events")
    if last["error"] is not None:
        raise RuntimeError(str(last["error"]))


def _large(folder: Path) -> Path:
    path = Path(shutil.copy(MODEL_PATH, folder / "large.gguf"))
    with path.open("r+b") as file:
        file.truncate(SIZE)
    return path
