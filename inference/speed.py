"""How fast a loaded model is, measured once, right after the load: for those who choose among workers, and for what a
step may hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from inference.forward import Forward, Rows
from inference.recipe import FAST_CHUNK

MEASURE_S: Final = 0.25
"""Enough for a few tokens of a large model and for a steady figure of a small one."""
MOST_TOKENS: Final = 32
STEP_S: Final = 0.1
"""What a step with a prompt's chunk may take, where the model allows it: so long, running answers wait for it."""
LEAST_CHUNK: Final = 64
"""Below it ggml's flash attention takes a slower kernel: prompts would take half as long again (measured)."""
SLOW: Final = 5.0
"""Tokens a second of a model whose least chunk takes seconds: nothing to be chosen, and not worth the time."""
_TOKEN: Final = 1


def tokens_per_second(context: Forward, clock: Callable[[], float] = time.perf_counter) -> float:
    """Decode one slot alone, its first step left out: that one brings the weights into memory."""
    context.keep(0, 0)
    step(context, 0)
    began_s = clock()
    done = 0
    while done < MOST_TOKENS and (done == 0 or clock() - began_s < MEASURE_S):
        done += 1
        step(context, done)
    spent_s = clock() - began_s
    context.keep(0, 0)
    return done / max(spent_s, 1e-9)


def prefill_chunk(
    context: Forward,
    tokens_per_second: float,
    context_tokens: int,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """The rows of a prompt's step, a power of two: as many as STEP_S allows, up to FAST_CHUNK."""
    if tokens_per_second < SLOW or context_tokens < LEAST_CHUNK:
        return LEAST_CHUNK
    began_s = clock()
    rows = Rows()
    rows.add(0, 0, [_TOKEN] * LEAST_CHUNK, wanted=True)
    context.decode(rows, exact=False)
    context.best()
    spent_s = clock() - began_s
    context.keep(0, 0)
    chunk = FAST_CHUNK
    while chunk > LEAST_CHUNK and chunk / LEAST_CHUNK * spent_s > STEP_S:
        chunk //= 2
    return chunk


def step(context: Forward, position: int) -> None:
    """One token, to its end: a GPU only begins to compute until somebody wants the result."""
    context.decode(Rows([_TOKEN], [position], [0], [0]), exact=False)
    context.best()
