"""The routing table: for each distance, up to 20 peers that were heard of lately. Pure.

bucket i holds peers that share i leading bits with this node: one bucket covers half of what the one before covers
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from p2p.host.kad.distance import BITS, K, seat
from p2p.identity import PeerId

STALE_S: Final = 900.0
"""A peer not heard of for as long gives its place in a full bucket up; until then old friends are the better ones."""


class Table:
    def __init__(self, own: PeerId) -> None:
        self._own = own
        self._buckets: dict[int, dict[PeerId, float]] = {}

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def __iter__(self) -> Iterator[PeerId]:
        for bucket in self._buckets.values():
            yield from bucket

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._buckets.get(self._shared_bits(peer), {})

    def seen(self, peer: PeerId, now: float) -> None:
        """A peer spoke, or was spoken of. now: monotonic seconds."""
        if peer == self._own:
            return
        bucket = self._buckets.setdefault(self._shared_bits(peer), {})
        if peer not in bucket and len(bucket) >= K:
            oldest = min(bucket, key=bucket.__getitem__)
            if now - bucket[oldest] < STALE_S:
                return
            del bucket[oldest]
        bucket[peer] = now

    def lost(self, peer: PeerId) -> None:
        """A peer did not answer."""
        self._buckets.get(self._shared_bits(peer), {}).pop(peer, None)

    def closest(self, target: int, count: int = K) -> list[PeerId]:
        """The peers nearest to a position, nearest first."""
        return sorted(self, key=lambda peer: seat(peer) ^ target)[:count]

    def _shared_bits(self, peer: PeerId) -> int:
        return BITS - (seat(peer) ^ seat(self._own)).bit_length()
