"""Where exactness holds: the same answers made alone, in chunks of other sizes, in company, from the cache, resumed.

Each condition is compared with the answer made alone by one thread, tokens and log-probabilities to their last digit,
on random weights, whose flat logits are the worst case.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from inference.batch import Batch
from inference.engine_wire import Generate, Produced
from inference.native import Context, Model, start
from inference.pace import Pace
from p2p.content import Sampling, TokenLogprob

NEW_TOKENS: Final = 12
COMPANY: Final = 3
SLOTS: Final = COMPANY + 1
Told = tuple[tuple[int, ...], tuple[TokenLogprob, ...]]


@dataclass(slots=True)
class Cell:
    """Runs of a condition. same: to the bit; tokens: the same tokens, whatever their log-probabilities."""

    runs: int = 0
    same: int = 0
    tokens: int = 0


class Trial:
    """One model under test. threads: of multi-row steps; fast: how the requests under test are computed."""

    def __init__(self, path: Path, *, threads: int, context_tokens: int, fast: bool = False) -> None:
        start()
        self._model = Model(path)
        sizes = {"slots": SLOTS, "context_tokens": context_tokens, "step_tokens": 256}
        self._one = Context(self._model, threads=1, **sizes)
        self._many = Context(self._model, threads=threads, **sizes)
        self._fast = fast

    def run(self, prompt_tokens: int, prompts: int, temperature: float) -> dict[str, Cell]:
        chance = random.Random(prompt_tokens)
        cells: dict[str, Cell] = {}
        for number in range(prompts):
            prompt = self._drawn(chance, prompt_tokens)
            asked = Generate(
                0, prompt, (), NEW_TOKENS, Sampling(temperature=temperature, seed=number, logprobs=5)
            )
            asked = replace(asked, scope=b"bench", exact=not self._fast)
            alone = self._alone(self._one, replace(asked, scope=b""))
            for name, told in self._conditions(asked, alone, chance):
                cell = cells.setdefault(name, Cell())
                cell.runs += 1
                cell.same += told == alone
                cell.tokens += told[0] == alone[0]
        return cells

    def _conditions(self, asked: Generate, alone: Told, chance: random.Random) -> Iterator[tuple[str, Told]]:
        apart = replace(asked, scope=b"")
        others = [self._drawn(chance, chance.choice((40, len(asked.prompt)))) for _ in range(COMPANY)]
        yield "more threads", self._alone(self._many, apart)
        yield "in company", self._together(apart, others, exact=not self._fast)
        yield "in company of fast ones", self._together(apart, others, exact=False)
        cached = self._batch(self._many)
        _finish(cached, replace(asked, request=1))
        yield "from the cache", _finish(cached, asked)
        yield "from a copied slot", self._copied(asked)
        k = chance.randrange(1, NEW_TOKENS)
        rest = self._alone(self._many, replace(apart, resume=alone[0][:k]))
        yield "resumed", (alone[0][:k] + rest[0], alone[1][:k] + rest[1])

    def _copied(self, asked: Generate) -> Told:
        """Another request with the same beginning still decodes in its own slot."""
        batch = self._batch(self._many)
        produced = list(batch.submit(replace(asked, request=1, max_tokens=4 * NEW_TOKENS)))
        while not any(one.request == 1 for one in produced):
            produced += batch.step(0.0)
        return _finish(batch, asked)

    def _together(self, asked: Generate, others: list[tuple[int, ...]], *, exact: bool) -> Told:
        batch = self._batch(self._many)
        for number, other in enumerate(others, start=1):
            for _ in batch.submit(replace(asked, request=number, prompt=other, exact=exact)):
                pass
        for _ in range(3):
            list(batch.step(0.0))
        return _finish(batch, asked)

    def _alone(self, context: Context, asked: Generate) -> Told:
        return _finish(self._batch(context), asked)

    def _batch(self, context: Context) -> Batch:
        return Batch(self._model, context, Pace(None, 0.0), slots=SLOTS, chunk=256)

    def _drawn(self, chance: random.Random, tokens: int) -> tuple[int, ...]:
        return tuple(chance.randrange(10, self._model.vocabulary_size) for _ in range(tokens))


def _finish(batch: Batch, asked: Generate) -> Told:
    produced: list[Produced] = list(batch.submit(asked))
    while not batch.idle:
        produced += batch.step(0.0)
    mine = [one for one in produced if one.request == asked.request]
    return tuple(token for one in mine for token in one.ids), tuple(
        told for one in mine for told in one.logprobs
    )


def table(trial: Callable[[], Trial], lengths: dict[int, int]) -> Iterator[str]:
    """The table of docs/exactness.md. lengths: prompt tokens, and how many prompts of them."""
    made = trial()
    for tokens, prompts in lengths.items():
        for temperature in (0.0, 0.8):
            began = time.monotonic()
            cells = made.run(tokens, prompts, temperature)
            told = ", ".join(
                f"{name} {cell.same}/{cell.runs} ({cell.tokens})" for name, cell in cells.items()
            )
            yield f"{tokens:5} T={temperature}: {told}  [{time.monotonic() - began:.0f} s]"


if __name__ == "__main__":
    path, mode = Path(sys.argv[1]), sys.argv[2]
    for line in table(
        lambda: Trial(path, threads=2, context_tokens=2112, fast=mode == "fast"),
        {50: 6, 500: 3, 1000: 2, 2000: 1},
    ):
        print(line, flush=True)
