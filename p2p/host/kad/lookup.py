"""One iterative lookup: ask the nearest known, they name nearer ones, until the k nearest have answered. Pure.

candidate ── next() ──> asked ── answered ──> done with
                              └─ failed ────> out of the running: the next nearest takes its place
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal

from p2p.host.kad.distance import K, seat
from p2p.identity import PeerId

ALPHA: Final = 6
"""Peers asked at a time: two that were killed must not stop the rest."""

State = Literal["candidate", "asked", "answered", "failed"]


class Lookup:
    """target: a position; start: the peers known at the beginning.

    at_hand: whether a peer can be asked without a dial; of the k nearest, those go first, for they may know already.
    """

    def __init__(
        self,
        target: int,
        start: Iterable[PeerId],
        *,
        own: PeerId,
        at_hand: Callable[[PeerId], bool] = lambda _peer: True,
    ) -> None:
        self._target = target
        self._own = own
        self._at_hand = at_hand
        self._states: dict[PeerId, State] = {}
        self._add(start)

    def next(self, width: int = ALPHA, *, patient: bool = False) -> list[PeerId]:
        """Whom to ask now, in addition to those who have not answered yet; empty and nobody asked: it is over.

        width: how many may be asked at a time. patient: nobody is dialled while somebody at hand may be about to
        answer.
        """
        asked = [peer for peer, state in self._states.items() if state == "asked"]
        room = width - len(asked)
        if room <= 0:
            return []
        candidates = [peer for peer in self._nearest() if self._states[peer] == "candidate"]
        if patient and any(map(self._at_hand, [*asked, *candidates])):
            candidates = list(filter(self._at_hand, candidates))
        chosen = sorted(candidates, key=lambda peer: not self._at_hand(peer))[:room]
        for peer in chosen:
            self._states[peer] = "asked"
        return chosen

    @property
    def over(self) -> bool:
        """Whether nobody is asked, after `next` had its say."""
        return "asked" not in self._states.values()

    def answered(self, peer: PeerId, nearer: Iterable[PeerId]) -> None:
        self._states[peer] = "answered"
        self._add(nearer)

    def failed(self, peer: PeerId) -> None:
        self._states[peer] = "failed"

    def found(self) -> list[PeerId]:
        """Of the k nearest, those who answered, nearest first."""
        return [peer for peer in self._nearest() if self._states[peer] == "answered"]

    def _nearest(self) -> list[PeerId]:
        alive = [peer for peer, state in self._states.items() if state != "failed"]
        return sorted(alive, key=lambda peer: seat(peer) ^ self._target)[:K]

    def _add(self, peers: Iterable[PeerId]) -> None:
        for peer in peers:
            if peer != self._own:
                self._states.setdefault(peer, "candidate")
