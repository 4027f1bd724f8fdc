"""One origin and eight who fetch, each behind a capped line: how long the slowest takes, what the origin sends.

Beside it BitTorrent by aria2, with the same caps, a tracker of our own, and its usual settings.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.artifacts.lines import Place, Places, places
from benchmarks.artifacts.made import random_file
from benchmarks.artifacts.torrent import Tracker, aria2, torrent, wait_done
from benchmarks.report import say
from benchmarks.transport.contest import Contest, Figure, Goal, Run
from benchmarks.transport.npm import Missing
from benchmarks.transport.processes import Process, python

SIZE: Final = 48 << 20
LEECHERS: Final = 8
LINE_BYTES_PER_S: Final = 4e6
"""Of each node: nine of them leave the processor idle, so that the caps decide."""
IDEAL_S: Final = SIZE / LINE_BYTES_PER_S
FIGURES: Final = (
    Figure(
        "slowest", "1 origin, 8 leechers: slowest, over size / bandwidth", "x", Goal(2.0, 1.3, "most", "ours")
    ),
    Figure("origin", "bytes that the origin sends, over the size", "x", Goal(2.0, 1.2, "most", "ours")),
)
AGAINST: Final = (Figure("speed", "the same swarm, speed of the slowest", "MB/s", Goal(0.7, 1.1)),)


@contextmanager
def contests() -> Iterator[list[Contest]]:
    if shutil.which("aria2c") is None:
        raise Missing("aria2 is not installed")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tether-bench-")))
        file = random_file(folder / "made" / "file", SIZE)
        where = stack.enter_context(places(1 + LEECHERS, LINE_BYTES_PER_S))
        say(f"swarm: {where.how}")
        sides = [
            stack.enter_context(_side(folder / f"node{number}", place))
            for number, place in enumerate(where.nodes)
        ]
        hellos = [side.hello for side in sides]
        for number, side in enumerate(sides):
            side.ask("meet", peers=hellos[:number])
        blob = sides[0].ask("hold", path=str(file))
        ours = _ours(sides, blob)
        yield [
            Contest((*FIGURES, *AGAINST), ours, {"aria2": _aria2(file, folder, where)}, warm_ups=0),
        ]


def _side(folder: Path, place: Place) -> Process:
    up = str(place.up_bytes_per_s or "")
    return python("benchmarks.artifacts.side", str(folder), up, place.address, within=place.command)


def _ours(sides: Sequence[Process], blob: Mapping[str, object]) -> Run:
    origin, *leechers = sides

    def run() -> Mapping[str, float]:
        for side in leechers:
            side.ask("forget")
        before = origin.ask("lent")["bytes"]
        for side in leechers:
            side.tell("want", **blob)
        slowest = max(side.answer(600)["seconds"] for side in leechers)
        sent = origin.ask("lent")["bytes"] - before
        return {"slowest": slowest / IDEAL_S, "origin": sent / SIZE, "speed": SIZE / slowest / 1e6}

    return run


def _aria2(file: Path, folder: Path, where: Places) -> Run:
    def run() -> Mapping[str, float]:
        with ExitStack() as stack:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            tracker = stack.enter_context(Tracker(where.listener()))
            description = torrent(file, tracker.url, root / "file.torrent")
            (root / "origin").mkdir()
            shutil.copyfile(file, root / "origin" / "file")
            stack.enter_context(aria2(description, root / "origin", where.nodes[0], seed=True))
            tracker.wait_for(1)
            done = [root / f"leecher{number}" for number in range(LEECHERS)]
            for one, place in zip(done, where.nodes[1:], strict=True):
                stack.enter_context(aria2(description, one, place, seed=False))
            slowest = wait_done(done, timeout_s=600)
            return {"slowest": slowest / IDEAL_S, "speed": SIZE / slowest / 1e6}

    return run
