"""The subjects of `make bench-transport`, each a module of this folder with `contests`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Final

from benchmarks.report import Row
from benchmarks.transport import runner

SUBJECTS: Final = ("bulk", "dial", "calls", "relay", "gossip", "dht")


def measure(runs: int, subjects: Sequence[str] = SUBJECTS) -> list[Row]:
    """Subjects are imported here, for `python -m benchmarks join` needs none of it."""
    chosen = [import_module(f"benchmarks.transport.{subject}").contests for subject in subjects]
    return runner.measure(chosen, runs)
