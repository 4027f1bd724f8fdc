"""How often a member may call: a bucket of tokens for each, so that one who never stops is refused, at little cost.

Pure: the shell brings the clock. The rates are far above what an honest member needs in the worst case; they bound
what another one costs.
"""

from __future__ import annotations

from typing import Final

from p2p.errors import CAPACITY, TetherError
from p2p.identity import PeerId
from topics.bounded import Recent

MAX_PEERS: Final = 16_384
"""Remembered, the busiest lately: who is forgotten begins with a full bucket."""


class Tempo:
    """per_s: calls that each peer may make in the long run; burst: at once. Times are monotonic seconds."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._buckets: Recent[PeerId, tuple[float, float]] = Recent(MAX_PEERS)

    def take(self, peer: PeerId, now_s: float) -> None:
        """One call of this peer. Raises TetherError(CAPACITY) for one too many."""
        tokens, at_s = self._buckets.get(peer) or (self._burst, now_s)
        tokens = min(self._burst, tokens + (now_s - at_s) * self._per_s)
        if tokens < 1:
            self._buckets.put(peer, (tokens, now_s))
            wait_s = (1 - tokens) / self._per_s
            raise TetherError(CAPACITY, "This member calls too often.", retry_after_s=wait_s)
        self._buckets.put(peer, (tokens - 1, now_s))
