"""The slots that this orchestrator has promised since the workers last reported. Pure: time is passed in."""

from __future__ import annotations

from typing import Final

from p2p.identity import PeerId

TOLD_S: Final = 1.0
"""A worker reports a changed load within a quarter of a second: after this its report counts, not our memory."""


class Reservations:
    """Promised slots by grant; each counts until it is given back, or is old enough to be in the worker's report."""

    def __init__(self) -> None:
        self._promised: dict[bytes, tuple[PeerId, float]] = {}

    def promise(self, worker: PeerId, grant_id: bytes, now_s: float) -> None:
        self._forget(now_s)
        self._promised[grant_id] = (worker, now_s)

    def release(self, grant_id: bytes) -> None:
        self._promised.pop(grant_id, None)

    def held(self, now_s: float) -> dict[PeerId, int]:
        """How many slots of each worker are promised and not reported yet."""
        self._forget(now_s)
        held: dict[PeerId, int] = {}
        for worker, _ in self._promised.values():
            held[worker] = held.get(worker, 0) + 1
        return held

    def _forget(self, now_s: float) -> None:
        for grant_id, (_, since_s) in list(self._promised.items()):
            if now_s - since_s < TOLD_S:
                break
            del self._promised[grant_id]
