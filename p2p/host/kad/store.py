"""Values that this node keeps for others, already checked. Pure, bounded."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from p2p.identity import PeerId

VALUE_TTL_S: Final = 86_400.0
"""A value says nothing of who is up, so it outlives the one who put it by a day."""
MAX_VALUES: Final = 16_384
MAX_STORE_BYTES: Final = 64 << 20
MAX_VALUES_OF_PEER: Final = 1_024
MAX_BYTES_OF_PEER: Final = 8 << 20
"""That one peer may have kept here: some sixty large manifests, or a thousand small ones."""


@dataclass(frozen=True, slots=True)
class _Kept:
    value: bytes
    giver: PeerId | None
    expires: float


class Store:
    """Times are monotonic seconds; what was put or repeated longest ago goes first when there is too much."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._given: dict[PeerId, tuple[int, int]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: bytes, value: bytes, giver: PeerId | None, now: float) -> bool:
        """Keep, replace or renew. giver: None for this node itself. False: this peer has too much here."""
        held = self._kept.get(key)
        if held is not None and held.value == value:
            giver = held.giver
        elif giver is not None:
            own = held is not None and held.giver == giver
            count, size = self._given.get(giver, (0, 0))
            freed = len(held.value) if held is not None and own else 0
            if count + (not own) > MAX_VALUES_OF_PEER or size - freed + len(value) > MAX_BYTES_OF_PEER:
                return False
        self.drop(key)
        self._kept[key] = _Kept(value, giver, now + VALUE_TTL_S)
        self._count(giver, +1, len(value))
        while len(self._kept) > MAX_VALUES or self._bytes > MAX_STORE_BYTES:
            self.drop(next(iter(self._kept)))
        return True

    def get(self, key: bytes, now: float) -> bytes | None:
        held = self._kept.get(key)
        if held is not None and held.expires <= now:
            self.drop(key)
            return None
        return held.value if held else None

    def drop(self, key: bytes) -> None:
        held = self._kept.pop(key, None)
        if held is not None:
            self._count(held.giver, -1, -len(held.value))

    def sweep(self, now: float) -> None:
        """Forget what has expired."""
        for key in [key for key, held in self._kept.items() if held.expires <= now]:
            self.drop(key)

    def _count(self, giver: PeerId | None, values: int, size: int) -> None:
        self._bytes += size
        if giver is None:
            return
        count, given = self._given.get(giver, (0, 0))
        if count + values:
            self._given[giver] = (count + values, given + size)
        else:
            self._given.pop(giver, None)
