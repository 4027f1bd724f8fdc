"""The workers of the region as this orchestrator knows them: what the view says, and what it asked of them itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import trio

from p2p.errors import CAPACITY, TetherError
from p2p.identity import PeerId
from p2p.messages import ReserveAnswer, ServedModel
from tetherd.orchestrator.breaker import FAULTS, Breakers
from tetherd.orchestrator.loads import Loads
from tetherd.orchestrator.matcher import WorkerState
from tetherd.orchestrator.ports import SwarmView
from topics.view import MemberState

_NONE: Final = frozenset[str]()


@dataclass(frozen=True, slots=True)
class Seat:
    """A slot that was chosen for a job and is not reserved yet: `reserved`, `refused` or `left` follows."""

    worker: MemberState
    served: ServedModel

    @property
    def peer(self) -> PeerId:
        return self.worker.peer


class Workforce:
    def __init__(self, swarm: SwarmView) -> None:
        self._swarm = swarm
        self._loads = Loads()
        self._breakers = Breakers()

    def states(self) -> dict[PeerId, WorkerState]:
        """Who may get work now."""
        workers, now_s = self._swarm.view.workers(self._swarm.region), trio.current_time()
        return {known.peer: state for known in workers if (state := self._state(known, now_s)) is not None}

    def models(self) -> list[str]:
        """What is served now, by name."""
        return _names(self._swarm.view.workers(self._swarm.region))

    def knew(self, model: str) -> bool:
        """Whether anybody served it lately, and is remembered for it."""
        return model in _names(self._swarm.view.members(self._swarm.region))

    def is_certified(self, worker: PeerId) -> bool:
        """Whether this is, or was a while ago, a worker of the swarm."""
        known = self._swarm.view.get(worker)
        return known is not None and "worker" in known.member.certificate.roles

    # ── One seat's life ──────────────────────────────────────────────────────────────────────────────────────────

    def take(self, chosen: WorkerState, served: ServedModel) -> tuple[Seat, WorkerState | None]:
        """Count a slot as taken before anybody else looks. Returns the seat, and how the worker stands now."""
        known = self._swarm.view.get(chosen.peer)
        assert known is not None, "the view changed between two statements"
        self._loads.ask(chosen.peer)
        now_s = trio.current_time()
        self._breakers.started(chosen.peer, served.name, now_s)
        return Seat(known, served), self._state(known, now_s)

    def reserved(self, seat: Seat, answer: ReserveAnswer) -> None:
        self._loads.answered(seat.peer, answer.load, seat.worker.number, trio.current_time())

    def refused(self, seat: Seat, error: TetherError) -> None:
        if error.code is CAPACITY:
            self._loads.refused(seat.peer, seat.served.digest, trio.current_time())
            self._breakers.aborted(seat.peer, seat.served.name)
        else:
            self._loads.failed(seat.peer)
            self.failed(seat.peer, seat.served.name, error.code.name)

    def left(self, seat: Seat) -> None:
        """Nobody waits for it any more."""
        self._loads.failed(seat.peer)
        self._breakers.aborted(seat.peer, seat.served.name)

    # ── What came of a worker's work ─────────────────────────────────────────────────────────────────────────────

    def succeeded(self, worker: PeerId, model: str) -> None:
        self._breakers.succeeded(worker, model)

    def failed(self, worker: PeerId, model: str, cause: str) -> None:
        if cause in FAULTS:
            self._breakers.failed(worker, model, trio.current_time())
        else:
            self._breakers.aborted(worker, model)

    def _state(self, known: MemberState, now_s: float) -> WorkerState | None:
        """None for a node that is not certified to work, or has no slots."""
        health, peer = known.presence.health, known.peer
        if health is None or health.capacity < 1 or "worker" not in known.member.certificate.roles:
            return None
        models, broken, full = health.model_cache, _NONE, _NONE
        if self._breakers:
            broken = frozenset(one.name for one in models if not self._breakers.allows(peer, one.name, now_s))
        if self._loads.any_full():
            full = frozenset(one.digest for one in models if self._loads.full(peer, one.digest, now_s))
        taken = self._loads.taken(peer, health.load, known.number, now_s)
        free, held = health.capacity - taken, frozenset(health.prefixes)
        return WorkerState(peer, models, health.capacity, free, broken, full, held)


def _names(members: Iterable[MemberState]) -> list[str]:
    reports = [known.presence.health for known in members]
    return sorted({served.name for report in reports if report is not None for served in report.model_cache})
