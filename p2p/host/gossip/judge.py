"""What a peer may pass on: what the topic's limits allow, until too much of it does not hold. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from p2p.host.scores import Scores
from p2p.identity import PeerId
from p2p.transport import TopicLimits

MUTED_ABOVE: Final = 32.0
"""Marks, halved each minute: nobody is muted for a clock that was once off."""
TOO_MANY: Final = 0.25
"""The mark for a message beyond a topic's rate; what is oversized, forged or not believed weighs 1."""
MAX_BUCKETS: Final = 8_192
"""Of a peer and a topic; the one unused for longest begins anew."""


class Judge:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._marks = Scores(MUTED_ABOVE)
        self._buckets: OrderedDict[tuple[PeerId, str], tuple[float, float]] = OrderedDict()

    def admits(self, peer: PeerId, topic: str, size: int, limits: TopicLimits, now: float) -> bool:
        """Whether a message is looked at. size: of its data."""
        if self.muted(peer, now):
            return False
        if size > limits.message_bytes:
            self.blame(peer, now)
            return False
        if not self._take(peer, topic, limits, now):
            self._marks.mark(peer, TOO_MANY, now)
            return False
        return True

    def blame(self, peer: PeerId, now: float) -> None:
        """It passed on what does not hold."""
        self._marks.mark(peer, 1.0, now)

    def muted(self, peer: PeerId, now: float) -> bool:
        return self._marks.refused(peer, now)

    def _take(self, peer: PeerId, topic: str, limits: TopicLimits, now: float) -> bool:
        tokens, since = self._buckets.pop((peer, topic), (float(limits.burst), now))
        tokens = min(float(limits.burst), tokens + (now - since) * limits.per_s)
        admitted = tokens >= 1.0
        self._buckets[peer, topic] = (tokens - admitted, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return admitted
