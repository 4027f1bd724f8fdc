"""What the benchmarks of the engine ask it, and how they judge."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from benchmarks.report import Row
from inference.engine import Generation
from inference.llama import LlamaEngine
from p2p.content import Sampling

GREEDY: Final = Sampling(temperature=0)


@dataclass(frozen=True, slots=True)
class Plan:
    """tokens: of each answer, so few that a run takes seconds."""

    name: str
    path: Path
    tokens: int


def judged(made: Row, floor: float, aim: float) -> Row:
    ratio = made.ratio or 0.0
    return replace(
        made, floor=f">= {floor:g}x", holds=ratio >= floor, reach=f">= {aim:g}x", reached=ratio >= aim
    )


async def generate(
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


async def first_token(engine: LlamaEngine, prompt: tuple[int, ...], *, exact: bool) -> float:
    began = time.perf_counter()
    async with engine.generate(Generation(prompt, 2, GREEDY, exact=exact)) as answer:
        async for _ in answer:
            break
    return time.perf_counter() - began


def prompts(seed: int, count: int, tokens: int) -> list[tuple[int, ...]]:
    """Other ones for every run, so that no cache helps; the ids of ordinary words in the built-in vocabulary."""
    chance = random.Random(seed)
    return [tuple(chance.randrange(300, 1_000) for _ in range(tokens)) for _ in range(count)]
