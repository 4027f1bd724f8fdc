"""What an engine has to show before it may call itself exact: one answer, made five ways, the same to the bit.

Alone; again, where its beginning is in the cache; in company, with others' prompts coming in between; and resumed at a
drawn token, with what it had computed gone. Tokens and log-probabilities are compared, the latter in all their digits.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from inference.batch import Batch
from inference.engine_wire import Generate, Produced
from inference.native import Model
from inference.recipe import EXACT_CHUNK
from p2p.content import Sampling, TokenLogprob

PROMPT_TOKENS: Final = 2 * EXACT_CHUNK + 12
ANSWER_TOKENS: Final = 6
COMPANY: Final = 2
_SAMPLING: Final = Sampling(temperature=0.9, seed=7, logprobs=5)

Answer = tuple[tuple[int, ...], tuple[TokenLogprob, ...]]


def is_exact(
    model: Model, fresh: Callable[[], Batch], seed: int, alive: Callable[[], None] = lambda: None
) -> bool:
    """Run the test. fresh: makes an empty batch on the engine's context; seed: of prompts and where to resume.

    alive: is called before each answer, for whoever waits for the end.
    """

    def batch() -> Batch:
        alive()
        return fresh()

    chance = random.Random(seed)
    prompt, *others = (_drawn(model, chance) for _ in range(COMPANY + 1))
    alone, cached = _alone(batch(), prompt), batch()
    first = _alone(cached, prompt, scope=b"self-test")
    alive()
    again = _alone(cached, prompt, scope=b"self-test")
    together = _together(batch(), prompt, others)
    k = chance.randrange(len(alone[0]) + 1)
    rest = _alone(batch(), prompt, resume=alone[0][:k])
    resumed = alone[0][:k] + rest[0], alone[1][:k] + rest[1]
    return all(answer == alone for answer in (first, again, together, resumed))


def _drawn(model: Model, chance: random.Random) -> tuple[int, ...]:
    return tuple(chance.randrange(model.vocabulary_size) for _ in range(PROMPT_TOKENS))


def _ask(request: int, prompt: tuple[int, ...], resume: tuple[int, ...] = (), scope: bytes = b"") -> Generate:
    return Generate(request, prompt, resume, ANSWER_TOKENS, _SAMPLING, scope)


def _alone(
    batch: Batch, prompt: tuple[int, ...], *, resume: tuple[int, ...] = (), scope: bytes = b""
) -> Answer:
    produced = list(batch.submit(_ask(0, prompt, resume, scope)))
    while not batch.idle:
        produced += batch.step(0.0)
    return _of(produced, 0)


def _together(batch: Batch, prompt: tuple[int, ...], others: list[tuple[int, ...]]) -> Answer:
    """The others begin before it, so that they decode while its prompt comes in."""
    produced = [
        one
        for number, other in enumerate((*others, prompt))
        for one in batch.submit(_ask(len(others) - number, other))
    ]
    while not batch.idle:
        produced += batch.step(0.0)
    return _of(produced, 0)


def _of(produced: list[Produced], request: int) -> Answer:
    mine = [one for one in produced if one.request == request]
    return tuple(token for one in mine for token in one.ids), tuple(
        told for one in mine for told in one.logprobs
    )
