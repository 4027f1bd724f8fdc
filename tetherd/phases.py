"""How far a starting daemon has come, told to whoever shows it."""

from __future__ import annotations

from typing import Protocol


class Phases(Protocol):
    """The daemon reports here. progress repeats a phase with a fraction (0 to 1) until reached says it is over."""

    def begin(self, region: str) -> None: ...

    def reached(self, phase: str, detail: str) -> None: ...

    def progress(self, phase: str, fraction: float, detail: str) -> None: ...

    def notice(self, text: str) -> None: ...
