"""Python's own cost: the time of a step outside of llama.cpp, a token."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import llama_cpp

from benchmarks.engine.asking import GREEDY, prompts
from benchmarks.report import Row, row
from inference.batch import Batch
from inference.engine_wire import Generate
from inference.native import Context, Model, start
from inference.pace import Pace

STREAMS: Final = 8


def python_cost(path: Path, runs: int) -> Row:
    """At 8 streams, one thread: the time of a step outside of llama.cpp, a token."""
    start()
    model = Model(path)
    context = Context(model, slots=STREAMS, context_tokens=512, step_tokens=256, threads=1)
    costs: list[float] = []
    with _timed("llama_decode", "llama_get_logits") as inside:
        for run in range(runs):
            batch = Batch(model, context, Pace(None, 0.0), slots=STREAMS, chunk=256)
            for number, prompt in enumerate(prompts(run, STREAMS, 32)):
                list(batch.submit(Generate(number, prompt, (), 65, GREEDY)))
            for _ in range(8):
                list(batch.step(0.0))
            made, inside[:], began = 0, [], time.perf_counter()
            while not batch.idle:
                made += sum(len(one.ids) for one in batch.step(0.0))
            costs.append(1e6 * (time.perf_counter() - began - sum(inside)) / max(1, made))
    return replace(
        row("Python's own cost a token, 8 streams", "us", costs, at_most=20.0),
        floor="<= 40 us",
        holds=statistics.median(costs) <= 40,
        reached=statistics.median(costs) <= 20,
    )


@contextmanager
def _timed(*names: str) -> Iterator[list[float]]:
    """Collect what each call of these functions of llama.cpp takes, in seconds."""
    took: list[float] = []
    plain = {name: getattr(llama_cpp, name) for name in names}

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            answer = function(*arguments)
            took.append(time.perf_counter() - began)
            return answer

        return call

    for name, function in plain.items():
        setattr(llama_cpp, name, timed(function))
    try:
        yield took
    finally:
        for name, function in plain.items():
            setattr(llama_cpp, name, function)
