"""How fast a loaded model is: measured once, right after the load, for those who choose among workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from inference.forward import Forward, Rows

MEASURE_S: Final = 0.25
"""Enough for a few tokens of a large model and for a steady figure of a small one."""
MOST_TOKENS: Final = 32
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


def step(context: Forward, position: int) -> None:
    """One token, to its end: a GPU only begins to compute until somebody wants the result."""
    context.decode(Rows([_TOKEN], [position], [0], [0]), exact=False)
    context.best()
