"""Draws the next token. Seeded anew at every position, so that an answer can be continued anywhere.

A sampler that carried its random state along would have to be moved with the answer; drawing position n from
blake2b(seed, n) needs nothing but the request. What does depend on the answer so far, penalties and the place in a
schema, is made from its tokens alone, so whoever resumes it with those is where the first one was.

    the model's logits > bias, penalties > (schema) > top k, typical, top p, min p, temperature > draw
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from inference.forward import Logits
from inference.grammar import Grammar
from inference.native import Candidates, Model
from p2p.content import Sampling
from p2p.errors import FIELD_INVALID, TetherError

_SEEDS: Final = 0xFFFF_FFFF
"""llama.cpp takes the 32-bit seed 0xFFFFFFFF for "draw one": seeds are taken below it."""

Weights = np.ndarray[Any, np.dtype[np.float32]]


def position_seed(seed: int, position: int) -> int:
    """The seed of one position: BLAKE2b of request seed and position, below 2**32 - 1."""
    words = (seed % (1 << 64)).to_bytes(8, "little") + position.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little") % _SEEDS


def log_probabilities(logits: Logits, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """The token's natural log-probability, and the count likeliest tokens with theirs, the likeliest first.

    Of the model itself: before bias, penalties, temperature and whatever cuts the tail, as OpenAI tells them.
    """
    weights = logits.values().astype(np.float64)
    weights -= weights.max()
    weights -= np.log(np.exp(weights).sum())
    count = min(count, len(weights))
    likeliest = np.argpartition(weights, -count)[-count:] if count else np.empty(0, np.int64)
    order = sorted(likeliest.tolist(), key=lambda one: (-weights[one], one))
    return float(weights[token]), [(one, float(weights[one])) for one in order]


class Sampler:
    """One answer's. resume: the ids that it has so far. `close` frees what llama.cpp holds for it.

    takes_best: it only ever takes the model's own best token, and need not be asked which.

    Raises TetherError(FIELD_INVALID) for a biased token that does not exist, a schema that makes no grammar, and
    resumed ids that break it.
    """

    def __init__(self, model: Model, sampling: Sampling, resume: Sequence[int]) -> None:
        self._sampling = sampling
        self._bias = _bias(sampling, model.vocabulary_size)
        self._counts = Counter(resume)
        self._grammar = Grammar(model, sampling.json_schema) if sampling.json_schema else None
        self._plain = not (sampling.logit_bias or _penalizes(sampling) or self._grammar)
        self.takes_best = self._plain and sampling.temperature <= 0.0
        self._position = len(resume)
        if self._grammar is not None:
            try:
                self._grammar.resume(resume)
            except TetherError:
                self.close()
                raise

    def next(self, logits: Logits) -> int:
        """Draw the next token. Greedy takes the lowest id among equals. -1: the schema leaves no token to draw."""
        if self.takes_best:
            return logits.argmax()
        sampling = self._sampling
        seed = position_seed(sampling.seed, self._position)
        token = logits.draw(sampling, seed) if self._plain else self._weighed(logits, seed)
        self._position += 1
        return token

    def _weighed(self, logits: Logits, seed: int) -> int:
        weights = logits.values().copy()
        self._bias_and_penalize(weights)
        token = _draw(Candidates.weighed(weights), self._sampling, seed)
        if self._grammar is not None:
            if not self._grammar.allows(token):
                allowed = Candidates.weighed(weights)
                self._grammar.restrict(allowed)
                if not np.isfinite(allowed.rows["logit"]).any():
                    return -1
                token = _draw(allowed, self._sampling, seed)
            self._grammar.accept(token)
        self._counts[token] += 1
        return token

    def _bias_and_penalize(self, weights: Weights) -> None:
        """As OpenAI defines frequency and presence, and CTRL (Keskar et al. 2019) the repetition penalty."""
        sampling = self._sampling
        if self._bias is not None:
            ids, values = self._bias
            weights[ids] += values
        if not self._counts or not _penalizes(sampling):
            return
        seen = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
        times = np.fromiter(self._counts.values(), np.float32, len(self._counts))
        before = weights[seen]
        repeated = np.where(before > 0, before / sampling.repeat_penalty, before * sampling.repeat_penalty)
        weights[seen] = repeated - times * sampling.frequency_penalty - sampling.presence_penalty

    def close(self) -> None:
        if self._grammar is not None:
            self._grammar.close()


def _draw(candidates: Candidates, sampling: Sampling, seed: int) -> int:
    return candidates.best() if sampling.temperature <= 0.0 else candidates.draw(sampling, seed)


def _penalizes(sampling: Sampling) -> bool:
    neutral = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
    return neutral != (1.0, 0.0, 0.0)


def _bias(sampling: Sampling, vocabulary_size: int) -> tuple[np.ndarray[Any, Any], Weights] | None:
    if not sampling.logit_bias:
        return None
    ids = np.array([token for token, _ in sampling.logit_bias], np.int64)
    if ids.min() < 0 or ids.max() >= vocabulary_size:
        detail = f"logit_bias names a token that this model does not have; it has {vocabulary_size}."
        raise TetherError(FIELD_INVALID, detail, field="logit_bias")
    return ids, np.array([value for _, value in sampling.logit_bias], np.float32)
