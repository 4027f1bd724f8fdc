"""The seam beneath the batch: rows of tokens in, what may follow them out. llama.cpp and torch are behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from p2p.content import Sampling


class LoadError(Exception):
    """Why an engine does not take a model, as the end of a sentence."""


class DecodeError(Exception):
    """A step failed: the context cannot be trusted any more."""


class Abandoned(Exception):
    """A step was given up in the middle: some of its rows may be in their slots, and nothing is told of any."""


@dataclass(slots=True)
class Rows:
    """Tokens to put at positions of slots, a row each. wanted: the rows of which to compute what may follow them."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, slot: int, start: int, tokens: Sequence[int], *, wanted: bool) -> None:
        """Put tokens in a slot from position start on; wanted: what may follow the last of them."""
        self.tokens += tokens
        self.positions += range(start, start + len(tokens))
        self.slots += [slot] * len(tokens)
        if wanted:
            self.wanted.append(len(self.tokens) - 1)


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

    def decode(self, rows: Rows, *, exact: bool) -> None:
        """Put rows through the model; exact: the same bits in every company. Raises DecodeError, Abandoned."""
        ...

    def abandon(self) -> None:
        """From any thread: give up the decode that is under way, if that can be done; it raises Abandoned."""
        ...

    def logits(self, index: int) -> Logits:
        """Of the index-th of the rows that the last decode was asked for."""
        ...

    def best(self) -> list[int]:
        """The best token after each of those rows, the lowest id among equals."""
        ...

    def keep(self, slot: int, tokens: int) -> None:
        """Forget what a slot holds beyond its first tokens."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Give a slot all that another one holds."""
        ...
