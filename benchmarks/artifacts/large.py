"""A file of 10 GB between two nodes: the memory of the one that fetches it, and of the one that lends it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.transport.contest import Contest, Figure
from benchmarks.transport.processes import python

SIZE: Final = 10 * 10**9
TIMEOUT_S: Final = 1_800.0
FIGURES: Final = (
    Figure("peak", "10 GB file: peak memory of the node that fetches", "MB"),
    Figure("lender", "the same: peak memory of the node that lends", "MB"),
    Figure("rate", "the same: speed, verified and on disk", "MB/s"),
)


@contextmanager
def contests() -> Iterator[list[Contest]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tether-bench-")))
        file = folder / "sparse"
        with file.open("wb") as sparse:
            sparse.truncate(SIZE)
        seed = stack.enter_context(python("benchmarks.artifacts.side", str(folder / "seed")))
        leecher = stack.enter_context(python("benchmarks.artifacts.side", str(folder / "leecher")))
        leecher.ask("meet", peers=[seed.hello])
        blob = seed.ask("hold", path=str(file), timeout_s=TIMEOUT_S)

        def run() -> Mapping[str, float]:
            leecher.ask("forget")
            seconds = leecher.ask("want", timeout_s=TIMEOUT_S, **blob)["seconds"]
            peaks = {"peak": leecher.ask("peak")["mb"], "lender": seed.ask("peak")["mb"]}
            return {**peaks, "rate": SIZE / seconds / 1e6}

        yield [Contest(FIGURES, run, warm_ups=0, runs=1)]
