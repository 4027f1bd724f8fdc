"""A benchmark's rows: medians of several runs, beside a peer, against what is expected."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

OUT: Final = Path(__file__).parent / "out"


@dataclass(frozen=True, slots=True)
class Row:
    """One measure. reach: what is expected, holds: whether it is; ratio: ours to the peer's, run by run, the median.

    Where floor is given, it is what has to hold, reach is the aim beyond it, and reached says whether that was met too.
    """

    measure: str
    unit: str
    ours: float
    peer: float | None
    peerName: str
    ratio: float | None
    reach: str
    holds: bool | None
    runs: int
    floor: str = ""
    reached: bool | None = None


def row(
    measure: str,
    unit: str,
    ours: Sequence[float],
    *,
    peer: Sequence[float] = (),
    peer_name: str = "",
    at_most: float | None = None,
    at_least_ratio: float | None = None,
    at_most_more: float | None = None,
) -> Row:
    """Medians. at_most bounds ours, at_least_ratio the ratio, at_most_more the median of the differences."""
    ratio = statistics.median(a / b for a, b in zip(ours, peer, strict=True)) if peer else None
    mine, theirs = statistics.median(ours), statistics.median(peer) if peer else None
    reach, holds = "", None
    if at_most is not None:
        reach, holds = f"<= {at_most:g} {unit}", mine <= at_most
    if at_least_ratio is not None and ratio is not None:
        reach, holds = f">= {at_least_ratio:g}x", ratio >= at_least_ratio
    if at_most_more is not None and theirs is not None:
        more = statistics.median(a - b for a, b in zip(ours, peer, strict=True))
        reach, holds = f"<= +{at_most_more:g} {unit} (here {more:+.2f})", more <= at_most_more
    return Row(measure, unit, mine, theirs, peer_name, ratio, reach, holds, len(ours))


def publish(name: str, rows: Sequence[Row]) -> None:
    """Print the table and write benchmarks/out/NAME.json with the machine's cores and load."""
    machine = _machine()
    print(
        f"\n{name}: {machine['cpu']}, {machine['cores']} cores, "
        f"load {machine['load']:.1f}, Python {machine['python']}\n"
    )
    floors = any(item.floor for item in rows)
    expected = ("floor", "holds", "aim", "met") if floors else ("expected", "holds")
    headings = ("measure", "ours", "peer", "ratio", *expected, "runs")
    lines = [headings, *(_cells(item, floors=floors) for item in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    for index, line in enumerate(lines):
        print("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |")
        if index == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    OUT.mkdir(exist_ok=True)
    body = {"machine": machine, "rows": [asdict(item) for item in rows]}
    (OUT / f"{name}.json").write_text(json.dumps(body, indent=2) + "\n")


def say(text: str) -> None:
    """Progress of a long run."""
    print(f"  {text}", file=sys.stderr, flush=True)


def _cells(item: Row, *, floors: bool) -> tuple[str, ...]:
    peer = f"{item.peer:.2f} ({item.peerName})" if item.peer is not None else "-"
    ratio = f"{item.ratio:.2f}x" if item.ratio is not None else "-"
    expected: tuple[str, ...] = (item.reach or "-", _verdict(item.holds))
    if floors:
        expected = (item.floor or "-", _verdict(item.holds), item.reach or "-", _verdict(item.reached))
    return (item.measure, f"{item.ours:.2f} {item.unit}", peer, ratio, *expected, str(item.runs))


def _verdict(holds: bool | None) -> str:
    return {True: "yes", False: "NO", None: "-"}[holds]


def _machine() -> dict[str, Any]:
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
