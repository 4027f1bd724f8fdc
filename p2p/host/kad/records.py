"""Provider records that this node keeps for others: who is to be found under a key, and where. Pure, bounded."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from p2p.identity import PeerId
from p2p.transport import PeerAddress

TTL_S: Final = 1_800.0
"""A provider repeats itself every five minutes; one that was killed is forgotten after half an hour."""
MAX_KEYS: Final = 16_384
MAX_PROVIDERS: Final = 512
"""Of one key: a region has up to 2,000 workers, and nobody asks for more than a few."""
MAX_KEYS_OF_PEER: Final = 256
"""That one peer may announce here: a worker serves tens of models, not thousands."""


class Records:
    """Times are monotonic seconds; the least recently announced key goes first when there are too many."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, OrderedDict[PeerId, tuple[PeerAddress, float]]] = OrderedDict()
        self._announced: dict[PeerId, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, key: bytes, provider: PeerAddress, now: float) -> bool:
        """Keep or renew a record. False: this peer has too many."""
        providers = self._keys.get(key, OrderedDict())
        if provider.peer not in providers:
            if self._announced.get(provider.peer, 0) >= MAX_KEYS_OF_PEER:
                return False
            self._count(provider.peer, +1)
        self._keys[key] = providers
        self._keys.move_to_end(key)
        providers[provider.peer] = (provider, now + TTL_S)
        providers.move_to_end(provider.peer)
        if len(providers) > MAX_PROVIDERS:
            self._drop(key, next(iter(providers)))
        if len(self._keys) > MAX_KEYS:
            oldest = next(iter(self._keys))
            for peer in list(self._keys[oldest]):
                self._drop(oldest, peer)
        return True

    def get(self, key: bytes, now: float, count: int) -> list[PeerAddress]:
        """The freshest first."""
        self._expire(key, now)
        providers = self._keys.get(key, OrderedDict())
        return [provider for provider, _ in reversed(providers.values())][:count]

    def sweep(self, now: float) -> None:
        """Forget what has expired under keys that nobody asks for."""
        for key in list(self._keys):
            self._expire(key, now)

    def _expire(self, key: bytes, now: float) -> None:
        providers = self._keys.get(key, OrderedDict())
        for peer in [peer for peer, (_, expires) in providers.items() if expires <= now]:
            self._drop(key, peer)

    def _drop(self, key: bytes, peer: PeerId) -> None:
        del self._keys[key][peer]
        self._count(peer, -1)
        if not self._keys[key]:
            del self._keys[key]

    def _count(self, peer: PeerId, change: int) -> None:
        count = self._announced.get(peer, 0) + change
        if count:
            self._announced[peer] = count
        else:
            self._announced.pop(peer, None)
