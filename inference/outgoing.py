"""Which reports of the engine process leave when: tokens in small parcels, everything else at once. Pure.

A parcel wakes the worker's daemon, the gateway's and the client, which takes them a quarter of a millisecond together:
on a CPU, of cores that the engine computes with.
"""

from __future__ import annotations

import math
from typing import Final

from inference.engine_wire import Produced, Report

PARCEL_S: Final = 0.02
"""The least time between two parcels of one answer: fifty in a second are more than anybody sees."""
PARCELS_PER_S: Final = 100.0
"""Of all answers of an engine that computes on a CPU, for each of its cores: a fortieth of them."""


class Outgoing:
    """Reports on their way out. An answer's first tokens and its end leave at once, and take along whatever waits.

    Times are seconds of one monotonic clock. parcels_per_s: of all answers, where several would have more.
    """

    def __init__(self, parcels_per_s: float = math.inf) -> None:
        self.parcels_per_s = parcels_per_s
        self.due_s = math.inf
        """When what waits has to leave; inf: nothing waits."""
        self._waiting: list[Report] = []
        self._sent_s: dict[int, float] = {}
        self._apart_s = PARCEL_S

    def add(self, report: Report) -> None:
        self._waiting.append(report)
        sent_s = -math.inf
        if isinstance(report, Produced) and report.finish is None:
            sent_s = self._sent_s.get(report.request, -math.inf)
        self.due_s = min(self.due_s, sent_s + self._apart_s)

    def take(self, now_s: float) -> list[Report]:
        """All that wait, in order, the tokens of each answer in one report."""
        taken = joined(self._waiting)
        self._waiting.clear()
        self.due_s = math.inf
        self._sent_s = {request: at for request, at in self._sent_s.items() if at + self._apart_s > now_s}
        self._sent_s |= {report.request: now_s for report in taken if isinstance(report, Produced)}
        self._apart_s = max(PARCEL_S, len(self._sent_s) / self.parcels_per_s)
        return taken


def joined(reports: list[Report]) -> list[Report]:
    """Reports in order, each answer's tokens as one report at the place of the first."""
    together: list[Report] = []
    places: dict[int, int] = {}
    for report in reports:
        if isinstance(report, Produced):
            place = places.setdefault(report.request, len(together))
            if place < len(together):
                earlier = together[place]
                assert isinstance(earlier, Produced)
                together[place] = earlier.joined(report)
                continue
        together.append(report)
    return together
