"""When to try a direct connection, and when a pair stays relayed. Pure.

relayed ──due──> trying ─┬─ direct
   ^                     └─ failed ── fewer than 3 ──> again, after a pause
   │                            └──── given up: nothing for an hour
   └── this node, or the peer as this node sees it, has other addresses
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from p2p.identity import PeerId

TRIES: Final = 3
"""As the specification has it: what the timing spoiled once goes well the next time; routers do not change."""
PAUSES_S: Final = (0.5, 2.0)
GIVEN_UP_S: Final = 3600.0
MAX_PEERS: Final = 1024
"""Remembered; who is forgotten is tried anew."""


@dataclass(slots=True)
class _Record:
    failures: int = 0
    not_before_s: float = 0.0


class Tries:
    """now_s: monotonic."""

    def __init__(self) -> None:
        self._records: OrderedDict[PeerId, _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def due(self, peer: PeerId, now_s: float) -> bool:
        record = self._records.get(peer)
        return record is None or now_s >= record.not_before_s

    def failed(self, peer: PeerId, now_s: float) -> float | None:
        """How long to wait before the next try; None: this pair stays relayed."""
        record = self._records.setdefault(peer, _Record())
        self._records.move_to_end(peer)
        while len(self._records) > MAX_PEERS:
            self._records.popitem(last=False)
        record.failures += 1
        if record.failures % TRIES == 0:
            record.not_before_s = now_s + GIVEN_UP_S
            return None
        return PAUSES_S[record.failures % TRIES - 1]

    def given_up(self, peer: PeerId) -> bool:
        record = self._records.get(peer)
        return record is not None and record.not_before_s > 0

    def succeeded(self, peer: PeerId) -> None:
        self._records.pop(peer, None)

    def moved(self) -> None:
        """Everything may be otherwise now."""
        self._records.clear()
