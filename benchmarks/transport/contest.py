"""What is measured against whom, and what is good enough: the runner's words. A module of this folder has `contests`.

    @contextmanager
    def contests() -> Iterator[list[Contest]]: ...      starts the sides, yields, ends them

A `Run` takes every figure of a contest once. The runner calls ours and the peers' in turn, round after round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

Run = Callable[[], Mapping[str, float]]
"""One measured run. Returns key -> value for each `Figure` of its contest; a peer may leave some out."""


@dataclass(frozen=True, slots=True)
class Goal:
    """floor: below it the measure fails; aim: what is wanted. of: ours over the peer's, run by run, or ours alone."""

    floor: float
    aim: float
    at: Literal["least", "most"] = "least"
    of: Literal["ratio", "ours"] = "ratio"


@dataclass(frozen=True, slots=True)
class Figure:
    """key: under which a run returns it. goal: none for what is only stated, such as processor time."""

    key: str
    measure: str
    unit: str
    goal: Goal | None = None


@dataclass(frozen=True, slots=True)
class Contest:
    """peers: by name; goals compare with the first, the others are shown beside it.

    warm_ups: runs of each side before those that count. runs: none for the runner's own number.
    """

    figures: Sequence[Figure]
    ours: Run
    peers: Mapping[str, Run] = field(default_factory=dict)
    warm_ups: int = 1
    runs: int | None = None


Contests = Callable[[], AbstractContextManager[Sequence[Contest]]]
