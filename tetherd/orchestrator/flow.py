"""How long a place in the queue takes, by how fast it moved lately. Pure.

Only slots that somebody waited for count: while nobody waits, there is nothing to estimate.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

SAMPLES: Final = 32
LEAST: Final = 8
"""Below that nothing is said, and nobody is turned away."""
MEMORY_S: Final = 30.0
MODELS: Final = 256


class Flow:
    """now: monotonic seconds; model: any name of a line."""

    def __init__(self) -> None:
        self._moved: OrderedDict[str, deque[float]] = OrderedDict()

    def moved(self, model: str, now: float) -> None:
        """Somebody who waited got a slot."""
        times = self._moved.setdefault(model, deque(maxlen=SAMPLES))
        times.append(now)
        self._moved.move_to_end(model)
        if len(self._moved) > MODELS:
            self._moved.popitem(last=False)

    def wait_s(self, model: str, ahead: int, now: float) -> float | None:
        """How long somebody waits who has so many ahead; None: it cannot be told."""
        times = [at for at in self._moved.get(model, ()) if at > now - MEMORY_S]
        if len(times) < LEAST or now <= times[0]:
            return None
        return (ahead + 1) * (now - times[0]) / len(times)
