"""Our engine beside llama-server and `Llama`, run by run; then what its modes and its cache cost and save."""

from __future__ import annotations

import itertools
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import llama_cpp
import trio

from benchmarks.engine.llama_server import Server, build, serving
from benchmarks.engine.models import SHAPES, model_path
from benchmarks.report import Row, row, say
from inference.batch import Batch
from inference.engine import Generation
from inference.engine_wire import Generate
from inference.gguf import read_header
from inference.llama import LlamaEngine, LlamaSettings, open_llama
from inference.native import Context, Model, start
from inference.pace import Pace
from inference.sizing import SMALL_MODEL_PARAMETERS
from p2p.content import Sampling

__all__ = ["SHAPES", "measure"]

STREAMS: Final = (1, 4, 8, 16)
MODELS: Final = ("25M", "135M")
PROMPT: Final = 32
CONTEXT: Final = 512
PREFIX: Final = 1_000
LONG: Final = 1_024
GREEDY: Final = Sampling(temperature=0)


@dataclass(frozen=True, slots=True)
class Plan:
    """tokens: of each answer, so few that a run takes seconds."""

    name: str
    path: Path
    tokens: int


def measure(runs: int, models: Sequence[str] = MODELS) -> list[Row]:
    """Every measure of every model, the peer's run between ours."""
    program = build()
    rows: list[Row] = []
    for name in models:
        plan = Plan(name, model_path(name), 128 if name == "25M" else 48)
        # As the engine itself would choose: threads that spin for each other only harm a small model.
        threads = 1 if read_header(plan.path).parameters < SMALL_MODEL_PARAMETERS else _cores()
        with serving(program, plan.path, slots=max(STREAMS), context_tokens=CONTEXT, threads=threads) as peer:
            rows += trio.run(_beside, plan, peer, threads, runs)
        rows.append(_sequential(plan, threads, runs))
        rows += trio.run(_alone, plan, threads, runs)
    return [*rows, _python_cost(model_path("25M"), runs)]


async def _beside(plan: Plan, peer: Server, threads: int, runs: int) -> list[Row]:
    fast: dict[int, list[float]] = {count: [] for count in STREAMS}
    exact: dict[int, list[float]] = {count: [] for count in STREAMS}
    theirs: dict[int, list[float]] = {count: [] for count in STREAMS}
    settings = LlamaSettings(slots=max(STREAMS), threads=threads, context_tokens=CONTEXT)
    async with open_llama(plan.path, settings) as engine:
        for run in range(runs + 1):
            for count in STREAMS:
                prompts = _prompts(run, count, PROMPT)
                told = await trio.to_thread.run_sync(
                    peer.generate, [list(prompt) for prompt in prompts], plan.tokens
                )
                ours = await _generate(engine, prompts, plan.tokens, exact=False)
                strict = await _generate(engine, prompts, plan.tokens, exact=True)
                if run:  # the first one warms up
                    theirs[count].append(told)
                    fast[count].append(ours)
                    exact[count].append(strict)
            say(
                f"{plan.name} {run}/{runs}: "
                + _last(fast)
                + " | exact "
                + _last(exact)
                + " | "
                + _last(theirs)
            )
    rows: list[Row] = []
    for count in STREAMS:
        made = row(
            f"{plan.name}, {count} streams, fast",
            "tok/s",
            fast[count],
            peer=theirs[count],
            peer_name="llama-server",
        )
        rows.append(_judged(made, 0.95, 1.2 if count == max(STREAMS) else 1.0))
    made = row(f"{plan.name}, 8 streams, exact", "tok/s", exact[8], peer=fast[8], peer_name="fast")
    return [*rows, _judged(made, 0.85, 0.97)]


async def _alone(plan: Plan, threads: int, runs: int) -> list[Row]:
    """Prefill by mode, a long prompt among decodes, a shared beginning, a cancellation."""
    settings = LlamaSettings(slots=9, threads=threads, context_tokens=2 * LONG)
    prefill: dict[bool, list[float]] = {True: [], False: []}
    stalls: list[float] = []
    without: list[float] = []
    cached: list[float] = []
    freed: list[float] = []
    async with open_llama(plan.path, settings) as engine:
        for run in range(runs + 1):
            for exact in (False, True):
                took = await _first_token(engine, _prompts(run, 1, LONG)[0], exact=exact)
                prefill[exact].append(LONG / took)
            stalls.append(await _stall(engine, run))
            shared = _prompts(1_000 + run, 1, PREFIX)[0]
            asked = [shared + tail for tail in _prompts(run, 8, 24)]
            for scope, times in ((b"", without), (os.urandom(8), cached)):
                began = time.perf_counter()
                await _generate(engine, asked, 1, exact=True, scope=scope)
                times.append(time.perf_counter() - began)
            freed += [await _cancelled(engine, run) for _ in range(5)]
            say(
                f"{plan.name} {run}/{runs}: prefill {prefill[False][-1]:.0f}, exact {prefill[True][-1]:.0f} tok/s, "
                f"stall {stalls[-1]:.0f} ms, prefix {without[-1] / cached[-1]:.1f}x"
            )
    strict = row(
        f"{plan.name}, prefill of {LONG}, exact",
        "tok/s",
        prefill[True][1:],
        peer=prefill[False][1:],
        peer_name="fast",
    )
    saved = row(
        f"{plan.name}, 8 that share {PREFIX} tokens: without the cache",
        "s",
        without[1:],
        peer=cached[1:],
        peer_name="with",
    )
    p99 = sorted(freed)[int(0.99 * (len(freed) - 1))]
    return [
        _judged(strict, 0.5, 0.8),
        _judged(saved, 3.0, 6.0),
        row(
            f"{plan.name}, longest pause of 8 decodes while a prompt of {LONG} comes, fast", "ms", stalls[1:]
        ),
        replace(
            row(f"{plan.name}, cancel to slot free, p99", "ms", [p99], at_most=30.0),
            floor="<= 100 ms",
            holds=p99 <= 100,
            reached=p99 <= 30,
            runs=len(freed),
        ),
    ]


def _judged(made: Row, floor: float, aim: float) -> Row:
    ratio = made.ratio or 0.0
    return replace(
        made, floor=f">= {floor:g}x", holds=ratio >= floor, reach=f">= {aim:g}x", reached=ratio >= aim
    )


async def _generate(
    engine: LlamaEngine, prompts: list[tuple[int, ...]], tokens: int, *, exact: bool, scope: bytes = b""
) -> float:
    """Tokens a second of all answers together, prompts included in the time."""
    made: list[int] = []

    async def one(prompt: tuple[int, ...]) -> None:
        asked = Generation(prompt, tokens, GREEDY, scope=scope, exact=exact)
        async with engine.generate(asked) as answer:
            made.append(sum([len(part.ids) async for part in answer]))

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for prompt in prompts:
            nursery.start_soon(one, prompt)
    return sum(made) / (time.perf_counter() - began)


async def _first_token(engine: LlamaEngine, prompt: tuple[int, ...], *, exact: bool) -> float:
    began = time.perf_counter()
    async with engine.generate(Generation(prompt, 2, GREEDY, exact=exact)) as answer:
        async for _ in answer:
            break
    return time.perf_counter() - began


async def _stall(engine: LlamaEngine, run: int) -> float:
    """The longest pause between two tokens of eight running answers while a long prompt comes in, in ms."""
    pauses: list[float] = []
    long_is_in = trio.Event()
    all_decode = trio.Event()
    begun = 0

    async def decode(prompt: tuple[int, ...]) -> None:
        nonlocal begun
        async with engine.generate(Generation(prompt, LONG, GREEDY, exact=False)) as answer:
            last = 0.0
            async for _ in answer:
                now = time.perf_counter()
                if not last:
                    begun += 1
                    if begun == 8:
                        all_decode.set()
                elif all_decode.is_set():
                    pauses.append(now - last)
                last = now
                if long_is_in.is_set():
                    return

    async with trio.open_nursery() as nursery:
        for prompt in _prompts(run, 8, PROMPT):
            nursery.start_soon(decode, prompt)
        await all_decode.wait()
        await _first_token(engine, _prompts(run + 500, 1, LONG)[0], exact=False)
        long_is_in.set()
    return 1_000 * max(pauses)


async def _cancelled(engine: LlamaEngine, run: int) -> float:
    """Milliseconds from leaving one of nine answers, which have all slots, to the first token in the slot it had."""

    async def hold(prompt: tuple[int, ...]) -> None:
        async with engine.generate(Generation(prompt, LONG, GREEDY)) as answer:
            async for _ in answer:
                pass

    async with trio.open_nursery() as nursery:
        for prompt in _prompts(run, 8, 8):
            nursery.start_soon(hold, prompt)
        async with engine.generate(Generation(_prompts(run + 1, 1, 8)[0], LONG, GREEDY)) as answer:
            async for _ in answer:
                break
        took = await _first_token(engine, (1, 2), exact=True)
        nursery.cancel_scope.cancel()
    return 1_000 * took


def _sequential(plan: Plan, threads: int, runs: int) -> Row:
    """`Llama` serves one request after the other: what four cost it, beside four in our batch."""
    llama: Any = llama_cpp.Llama(
        str(plan.path), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    theirs: list[float] = []
    for run in range(runs):
        began = time.perf_counter()
        for prompt in _prompts(run, 4, PROMPT):
            for _ in itertools.islice(llama.generate(list(prompt), temp=0.0, reset=True), plan.tokens):
                pass
        theirs.append(4 * plan.tokens / (time.perf_counter() - began))
    llama.close()
    return row(f"{plan.name}, 4 requests one after the other by `Llama`", "tok/s", theirs)


def _python_cost(path: Path, runs: int) -> Row:
    """At 8 streams, one thread: the time of a step outside of llama.cpp, a token."""
    start()
    model = Model(path)
    context = Context(model, slots=8, context_tokens=CONTEXT, step_tokens=256, threads=1)
    costs: list[float] = []
    with _timed("llama_decode", "llama_get_logits") as inside:
        for run in range(runs):
            batch = Batch(model, context, Pace(None, 0.0), slots=8, chunk=256)
            for number, prompt in enumerate(_prompts(run, 8, PROMPT)):
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


def _prompts(seed: int, count: int, tokens: int) -> list[tuple[int, ...]]:
    """Other ones for every run, so that no cache helps; the ids of ordinary words in the built-in vocabulary."""
    chance = random.Random(seed)
    return [tuple(chance.randrange(300, 1_000) for _ in range(tokens)) for _ in range(count)]


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)))


def _last(taken: dict[int, list[float]]) -> str:
    return "/".join(f"{values[-1]:.0f}" if values else "-" for values in taken.values())
