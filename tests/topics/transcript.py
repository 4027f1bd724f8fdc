"""Transcripts: a machine's behaviour as text that a person reviews, in tests/transcripts/.

A line that starts with a time is an event; the indented lines under it are what the machine did, until the next event.
Between events time passes in ticks. To accept new behaviour, run the tests with TETHER_REWRITE_TRANSCRIPTS=1 and
read the diff.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

FOLDER = Path(__file__).parents[1] / "transcripts"
TICK_S = 0.25


class Player(Protocol):
    """Feeds a machine; each method returns what it did, as words."""

    def tick(self, now: float) -> list[str]: ...

    def play(self, words: list[str], now: float) -> list[str]: ...


def named(prefix: str) -> list[str]:
    return sorted(path.name for path in FOLDER.glob(f"{prefix}-*.txt"))


def check(name: str, player: Player) -> None:
    """Replay a transcript and compare, or rewrite it."""
    path = FOLDER / name
    before = path.read_text()
    after = "\n".join(replay(before, player)) + "\n"
    if os.environ.get("TETHER_REWRITE_TRANSCRIPTS"):
        path.write_text(after)
    else:
        assert after.splitlines() == before.splitlines(), f"{name} plays differently"


def replay(text: str, player: Player) -> Iterator[str]:
    clock = 0.0
    for line in text.splitlines():
        if line.startswith(" "):
            continue
        words = line.split()
        if not words or line.startswith("#"):
            yield line
            continue
        at = float(words[0])
        if words[1] == "asleep":  # no ticks until this time
            clock = at
        while clock < at:
            clock = min(clock + TICK_S, at)
            yield from _shown(clock, player.tick(clock))
        yield line
        if words[1] not in ("asleep", "wait"):
            yield from _shown(at, player.play(words[1:], at))


def _shown(now: float, effects: list[str]) -> Iterator[str]:
    for effect in effects:
        yield f"    {now:.2f} {effect}"
