"""How long to wait before an engine that died is started again. Pure.

A single death is an accident: the next process comes at once. One that keeps dying young takes ever longer turns, so
that it neither burns the processor with loads nor fills the log.
"""

from __future__ import annotations

from typing import Final

FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 10.0
"""Also how long a process has to live for its death to count as a first one again."""


class Restarts:
    """Pauses of one engine."""

    def __init__(self) -> None:
        self._next_s = FIRST_PAUSE_S

    def pause_s(self, lived_s: float) -> float:
        """The pause after a process that lived so long; 0: it did not even load."""
        if lived_s > LAST_PAUSE_S:
            self._next_s = FIRST_PAUSE_S
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, LAST_PAUSE_S)
        return pause_s
