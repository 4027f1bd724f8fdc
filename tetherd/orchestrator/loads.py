"""How many slots of a worker are taken, as far as this orchestrator can know. Pure: time is passed in.

A worker's report is up to a quarter of a second old when it matters most: in a burst. So three things are counted:
its report, its answer to our last reservation (newer, until the next report comes), and what was asked of it and is
not answered yet. A worker has slots for each model, and reports only their sum: one that refused is left alone a while.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from p2p.identity import PeerId

TOLD_S: Final = 1.0
"""A changed load is reported within a quarter of a second: after this, silence means that the report still holds."""

ReportNumber = tuple[int, int]
"""Incarnation and seq of the announcement that a report came in."""


@dataclass(frozen=True, slots=True)
class _Word:
    """What a worker answered while its report of that number was the latest. at_s: monotonic."""

    load: int
    number: ReportNumber
    at_s: float


class Loads:
    def __init__(self) -> None:
        self._asked: Counter[PeerId] = Counter()
        self._words: dict[PeerId, _Word] = {}
        self._full: dict[tuple[PeerId, str], float] = {}

    def any_full(self) -> bool:
        return bool(self._full)

    def ask(self, worker: PeerId) -> None:
        """A slot is about to be reserved; `answered` or `failed` follows."""
        self._asked[worker] += 1

    def answered(self, worker: PeerId, load: int, number: ReportNumber, now_s: float) -> None:
        """The worker told its load, the new reservation included. Answers may overtake each other: the highest."""
        self.failed(worker)
        word = self._word(worker, number, now_s)
        self._words[worker] = _Word(max(load, word.load) if word else load, number, now_s)

    def failed(self, worker: PeerId) -> None:
        """Nothing was reserved."""
        self._asked[worker] -= 1
        if not self._asked[worker]:
            del self._asked[worker]

    def refused(self, worker: PeerId, digest: str, now_s: float) -> None:
        """It has no slot for this manifest."""
        self.failed(worker)
        self._full[worker, digest] = now_s + TOLD_S

    def full(self, worker: PeerId, digest: str, now_s: float) -> bool:
        until_s = self._full.get((worker, digest))
        if until_s is not None and now_s >= until_s:
            del self._full[worker, digest]
            return False
        return until_s is not None

    def taken(self, worker: PeerId, reported: int, number: ReportNumber, now_s: float) -> int:
        """Slots that are not free. reported: the load in the worker's latest report, which is that number."""
        word = self._word(worker, number, now_s)
        return (word.load if word else reported) + self._asked[worker]

    def _word(self, worker: PeerId, number: ReportNumber, now_s: float) -> _Word | None:
        """The worker's last answer, unless a report has come since or should have."""
        word = self._words.get(worker)
        if word is not None and (word.number < number or now_s - word.at_s >= TOLD_S):
            del self._words[worker]
            return None
        return word
