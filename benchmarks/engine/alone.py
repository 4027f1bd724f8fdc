"""The engine by itself: prefill by mode, pauses, what the cache saves, cancellations."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace
from typing import Final

import trio

from benchmarks.engine.asking import GREEDY, Plan, first_token, generate, judged, prompts
from benchmarks.report import Row, row, say
from inference.engine import Generation
from inference.llama import LlamaEngine, LlamaSettings, open_llama

PROMPT: Final = 32
PREFIX: Final = 1_000
LONG: Final = 1_024
CANCELS: Final = 10
CANCEL_AFTER_S: Final = 0.2
"""At most; by then even the fastest model here has not read the long prompt."""


async def alone(plan: Plan, threads: int, runs: int) -> list[Row]:
    """Prefill by mode, a long prompt among decodes, a shared beginning, a cancellation."""
    settings = LlamaSettings(slots=9, threads=threads, context_tokens=2 * LONG)
    prefill: dict[bool, list[float]] = {True: [], False: []}
    stalls: list[float] = []
    without: list[float] = []
    cached: list[float] = []
    freed: dict[int, list[float]] = {PROMPT: [], LONG: []}
    async with open_llama(plan.path, settings) as engine:
        for run in range(runs + 1):
            for exact in (False, True):
                seconds = await first_token(engine, prompts(run, 1, LONG)[0], exact=exact)
                prefill[exact].append(LONG / seconds)
            stalls.append(await _stall(engine, run))
            shared = prompts(1_000 + run, 1, PREFIX)[0]
            asked = [shared + tail for tail in prompts(run, 8, 24)]
            for scope, times in ((b"", without), (os.urandom(8), cached)):
                began = time.perf_counter()
                await generate(engine, asked, 1, exact=True, scope=scope)
                times.append(time.perf_counter() - began)
            for tokens, took in freed.items():
                took += [await _cancelled(engine, 10 * run + number, tokens) for number in range(CANCELS)]
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
    return [
        judged(strict, 0.5, 0.8),
        judged(saved, 3.0, 6.0),
        row(
            f"{plan.name}, longest pause of 8 decodes while a prompt of {LONG} comes, fast", "ms", stalls[1:]
        ),
        _freed(plan, "while all decode", freed[PROMPT]),
        _freed(plan, "while its prompt comes in", freed[LONG]),
    ]


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
        for prompt in prompts(run, 8, PROMPT):
            nursery.start_soon(decode, prompt)
        await all_decode.wait()
        await first_token(engine, prompts(run + 500, 1, LONG)[0], exact=False)
        long_is_in.set()
    return 1_000 * max(pauses)


async def _cancelled(engine: LlamaEngine, run: int, tokens: int) -> float:
    """Milliseconds from leaving one of nine answers, which have all slots, to the first token in the slot it had.

    tokens: of the left one's prompt; a long one is left while it comes in.
    """
    begun = 0
    all_decode = trio.Event()

    async def hold(prompt: tuple[int, ...]) -> None:
        nonlocal begun
        async with engine.generate(Generation(prompt, LONG, GREEDY, exact=False)) as answer:
            first = True
            async for _ in answer:
                if first:
                    first, begun = False, begun + 1
                    if begun == 8:
                        all_decode.set()

    async with trio.open_nursery() as nursery:
        for prompt in prompts(run, 8, 8):
            nursery.start_soon(hold, prompt)
        await all_decode.wait()
        left = Generation(prompts(run + 1, 1, tokens)[0], LONG, GREEDY, exact=False)
        async with engine.generate(left) as answer:
            if tokens == LONG:
                await trio.sleep(CANCEL_AFTER_S * random.Random(run).random())
            else:
                async for _ in answer:
                    break
        took = await first_token(engine, (1, 2), exact=True)
        nursery.cancel_scope.cancel()
    return 1_000 * took


def _freed(plan: Plan, state: str, freed: list[float]) -> Row:
    p99 = sorted(freed)[int(0.99 * (len(freed) - 1))]
    return replace(
        row(f"{plan.name}, cancel to slot free {state}, p99", "ms", [p99], at_most=30.0),
        floor="<= 100 ms",
        holds=p99 <= 100,
        reached=p99 <= 30,
        runs=len(freed),
    )
