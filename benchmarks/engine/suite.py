"""Our engine beside llama-server and `Llama`, run by run; then what its modes and its cache cost and save."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import llama_cpp
import psutil
import trio

from benchmarks.engine.alone import alone
from benchmarks.engine.asking import Plan, generate, judged, prompts
from benchmarks.engine.llama_server import Server, build, serving
from benchmarks.engine.models import SHAPES, model_path
from benchmarks.engine.own_cost import python_cost
from benchmarks.engine.through import through
from benchmarks.report import Row, row, say
from inference.gguf import read_header
from inference.llama import LlamaSettings, open_llama
from inference.sizing import SMALL_MODEL_PARAMETERS

__all__ = ["SHAPES", "measure"]

STREAMS: Final = (1, 4, 8, 16)
MODELS: Final = ("25M", "135M")
PROMPT: Final = 32
CONTEXT: Final = 512
TOKENS: Final = 128
"""Of each answer."""


def measure(runs: int, models: Sequence[str] = MODELS) -> list[Row]:
    """Every measure of every model, the peer's run between ours."""
    program = build()
    rows: list[Row] = []
    for name in models:
        plan = Plan(name, model_path(name), TOKENS)
        # As the engine itself would choose: threads that spin for each other only harm a small model.
        threads = 1 if read_header(plan.path).parameters < SMALL_MODEL_PARAMETERS else _cores()
        with serving(program, plan.path, slots=max(STREAMS), context_tokens=CONTEXT, threads=threads) as peer:
            rows += trio.run(_beside, plan, peer, threads, runs)
        rows.append(_sequential(plan, threads, runs))
        rows += trio.run(alone, plan, threads, runs)
        rows += through(plan, runs)
    return [*rows, python_cost(model_path("25M"), runs)]


class _Beside:
    """One column: tokens a second, and seconds of its process's own CPU time a token, by number of streams."""

    def __init__(self, process_id: int) -> None:
        self._process = psutil.Process(process_id)
        self.rates: dict[int, list[float]] = {count: [] for count in STREAMS}
        self.costs: dict[int, list[float]] = {count: [] for count in STREAMS}

    async def take(self, count: int, tokens: int, run: Callable[[], Awaitable[float]]) -> None:
        began_s = self._cpu_s()
        self.rates[count].append(await run())
        self.costs[count].append(1e3 * (self._cpu_s() - began_s) / tokens)

    def _cpu_s(self) -> float:
        spent = self._process.cpu_times()
        return float(spent.user + spent.system)

    def __str__(self) -> str:
        return "/".join(f"{values[-1]:.0f}" for values in self.rates.values())


async def _beside(plan: Plan, peer: Server, threads: int, runs: int) -> list[Row]:
    settings = LlamaSettings(slots=max(STREAMS), threads=threads, context_tokens=CONTEXT)
    async with open_llama(plan.path, settings) as engine:
        assert engine.process_id is not None
        fast, exact, theirs = _Beside(engine.process_id), _Beside(engine.process_id), _Beside(peer.process_id)
        for run in range(runs + 1):
            for count in STREAMS:
                asked, tokens = prompts(run, count, PROMPT), count * plan.tokens
                ask_peer = partial(peer.generate, [list(prompt) for prompt in asked], plan.tokens)
                await theirs.take(count, tokens, partial(trio.to_thread.run_sync, ask_peer))
                await fast.take(count, tokens, partial(generate, engine, asked, plan.tokens, exact=False))
                await exact.take(count, tokens, partial(generate, engine, asked, plan.tokens, exact=True))
            say(f"{plan.name} {run}/{runs}: {fast} | exact {exact} | {theirs}")
    return list(_compared(plan.name, fast, exact, theirs))


def _compared(name: str, fast: _Beside, exact: _Beside, theirs: _Beside) -> Iterator[Row]:
    """Without the first run, which warms up."""
    most = max(STREAMS)
    for count in STREAMS:
        own, peer = fast.rates[count][1:], theirs.rates[count][1:]
        made = row(f"{name}, {count} streams, fast", "tok/s", own, peer=peer, peer_name="llama-server")
        yield judged(made, 0.95, 1.2 if count == most else 1.0)
    costs = fast.costs[most][1:], theirs.costs[most][1:]
    title = f"{name}, {most} streams, fast: CPU time a token"
    yield row(title, "ms", costs[0], peer=costs[1], peer_name="llama-server")
    made = row(
        f"{name}, 8 streams, exact", "tok/s", exact.rates[8][1:], peer=fast.rates[8][1:], peer_name="fast"
    )
    yield judged(made, 0.85, 0.97)


def _sequential(plan: Plan, threads: int, runs: int) -> Row:
    """`Llama` serves one request after the other: what four cost it, beside four in our batch."""
    llama: Any = llama_cpp.Llama(
        str(plan.path), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    theirs: list[float] = []
    for run in range(runs):
        began = time.perf_counter()
        for prompt in prompts(run, 4, PROMPT):
            for _ in itertools.islice(llama.generate(list(prompt), temp=0.0, reset=True), plan.tokens):
                pass
        theirs.append(4 * plan.tokens / (time.perf_counter() - began))
    llama.close()
    return row(f"{plan.name}, 4 requests one after the other by `Llama`", "tok/s", theirs)


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)))
