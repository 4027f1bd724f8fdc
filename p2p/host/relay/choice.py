"""Which relays to use: the near ones that are not busy, and no change for little. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final

from p2p.identity import PeerId

UNMEASURED_S: Final = 0.2
"""The round trip of a relay that was never asked is taken for that of another continent's: tried after those nearby."""
BUSY_WEIGHT: Final = 3.0
"""A relay that is full counts as four times as far."""
INERTIA: Final = 0.67
"""Another one has to be better than this share of what is held: each change costs a connection and new addresses."""
BACKOFF_S: Final = 2.0
LONGEST_BACKOFF_S: Final = 300.0


@dataclass(slots=True)
class Candidate:
    """A node that may be willing. rtt_s: None until it has answered; load: 0 to 1; retry_s: monotonic, not before."""

    addresses: tuple[str, ...] = ()
    rtt_s: float | None = None
    load: float = 0.0
    failures: int = 0
    retry_s: float = 0.0

    def answered(self, rtt_s: float, load: float) -> None:
        self.rtt_s, self.load, self.failures, self.retry_s = rtt_s, load, 0, 0.0

    def failed(self, now_s: float, jitter: float) -> None:
        """jitter: 0 to 1."""
        self.failures += 1
        pause_s = min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** min(self.failures - 1, 16))
        self.retry_s = now_s + pause_s * (0.5 + jitter / 2)


def choose(
    candidates: Iterable[tuple[PeerId, Candidate]], held: Container[PeerId], count: int, now_s: float
) -> list[PeerId]:
    """The best count of them, those to wait for left out."""

    def cost(entry: tuple[PeerId, Candidate]) -> tuple[float, PeerId]:
        peer, candidate = entry
        rtt_s = UNMEASURED_S if candidate.rtt_s is None else candidate.rtt_s
        return rtt_s * (1 + BUSY_WEIGHT * candidate.load) * (INERTIA if peer in held else 1.0), peer

    ready = [entry for entry in candidates if entry[1].retry_s <= now_s]
    return [peer for peer, _ in sorted(ready, key=cost)[:count]]
