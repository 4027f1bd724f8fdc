"""The subjects of `make bench-artifacts`, each a module of this folder with `contests`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Final

from benchmarks.report import Row
from benchmarks.transport import runner

SUBJECTS: Final = ("loopback", "swarm", "tokens", "large")


def measure(runs: int, subjects: Sequence[str] = SUBJECTS) -> list[Row]:
    chosen = [import_module(f"benchmarks.artifacts.{subject}").contests for subject in subjects]
    return runner.measure(chosen, runs)
