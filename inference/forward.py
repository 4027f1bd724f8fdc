"""The seam beneath the batch: rows of tokens in, what may follow them out. llama.cpp and torch are behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from p2p.content import Sampling


class LoadError(Exception):
    """Why an engine does not take a model, as the end of a sentence."""


class DecodeError(Exception):
    """A step failed: the context cannot be trusted any more."""


@dataclass(frozen=True, slots=True)
class Row:
    """One token to put at a position of a slot. logits: whether to compute what may follow it."""

    token: int
    position: int
    slot: int
    logits: bool


class Logits(Protocol):
    """What may follow one row of the last decode; valid until the next one."""

    def values(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One for each token of the vocabulary, to be copied before it is changed."""
        ...

    def argmax(self) -> int:
        """The best token, the lowest id among equals."""
        ...

    def draw(self, sampling: Sampling, seed: int) -> int:
        """Draw one by llama.cpp's samplers."""
        ...


class Forward(Protocol):
    """A model with its slots' memory."""

    def decode(self, rows: Sequence[Row], *, exact: bool) -> None:
        """Put rows through the model; exact: the same bits in every company. Raises DecodeError."""
        ...

    def logits(self, index: int) -> Logits:
        """Of row index in the last decode, which asked for them."""
        ...

    def keep(self, slot: int, tokens: int) -> None:
        """Forget what a slot holds beyond its first tokens."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Give a slot all that another one holds."""
        ...
