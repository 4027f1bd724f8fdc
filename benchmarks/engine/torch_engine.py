"""The torch engine beside the llama.cpp engine: one GGUF in single precision, the same cores, in turns."""

from __future__ import annotations

import random
import time
from typing import Final

import trio

from benchmarks.engine.models import CONTEXT, SHAPES
from benchmarks.random_model import write_random_model
from benchmarks.report import OUT, Row, row, say
from inference.engine import Generation
from inference.gguf import read_header
from inference.llama import LlamaEngine, open_llama
from inference.sizing import LlamaSettings
from inference.survey import survey
from inference.torch.engine import open_torch
from p2p.content import Sampling

MODEL: Final = "25M"
STREAMS: Final = (1, 8)
PROMPT: Final = 32
TOKENS: Final = 48
LONG: Final = 512
GREEDY: Final = Sampling(temperature=0)


def measure(runs: int) -> list[Row]:
    path = OUT / f"random-{MODEL}-f32.gguf"
    if not path.exists():
        OUT.mkdir(exist_ok=True)
        write_random_model(path, context=CONTEXT, single=True, **SHAPES[MODEL])
    threads = survey().cores
    settings = LlamaSettings(slots=max(STREAMS), threads=threads, context_tokens=1_024, exact="off")
    names = [f"{count} streams" for count in STREAMS] + [f"prefill of {LONG}"]
    told: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}

    async def all_runs() -> None:
        vocabulary = read_header(path).vocabulary
        async with open_torch(path, settings) as torch, open_llama(path, settings) as llama:
            for run in range(runs + 1):
                for engine, side in ((torch, 0), (llama, 1)):
                    for count in STREAMS:
                        speed = await _generate(engine, vocabulary, run, count)
                        told[f"{count} streams"][side].append(speed)
                    told[f"prefill of {LONG}"][side].append(await _prefill(engine, vocabulary, run))
                say(
                    f"{run}/{runs}: "
                    + ", ".join(f"{n} {a[-1]:.0f}/{b[-1]:.0f}" for n, (a, b) in told.items())
                )

    trio.run(all_runs)
    # The first run warms up.
    return [
        row(
            f"{MODEL} F32, {name}, torch",
            "tok/s",
            ours[1:],
            peer=theirs[1:],
            peer_name="our llama.cpp engine",
        )
        for name, (ours, theirs) in told.items()
    ]


def _prompt(vocabulary: int, seed: int, length: int) -> tuple[int, ...]:
    chance = random.Random(seed)
    return tuple(chance.randrange(300, vocabulary) for _ in range(length))


async def _ask(engine: LlamaEngine, prompt: tuple[int, ...], tokens: int) -> None:
    async with engine.generate(Generation(prompt, tokens, GREEDY, exact=False)) as answer:
        async for _ in answer:
            pass


async def _generate(engine: LlamaEngine, vocabulary: int, run: int, count: int) -> float:
    began_s = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(_ask, engine, _prompt(vocabulary, run * 100 + number, PROMPT), TOKENS)
    return count * TOKENS / (time.perf_counter() - began_s)


async def _prefill(engine: LlamaEngine, vocabulary: int, run: int) -> float:
    began_s = time.perf_counter()
    await _ask(engine, _prompt(vocabulary, 10_000 + run, LONG), 1)
    return LONG / (time.perf_counter() - began_s)
