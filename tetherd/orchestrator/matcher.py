"""Which worker gets a job. Pure: two leaders with the same view choose the same one.

Filter (serves the model, is alive and ready, breaker closed, has room, is not excluded), then the less loaded of the
job's first two by rendezvous hashing (Thaler and Ravishankar 1998): jobs spread evenly, the same job lands on the same
worker from any leader, and a busy worker is passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from p2p.identity import PeerId
from p2p.messages import ServedModel


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A live worker as the matcher sees it. free: slots that neither its report nor a reservation here holds."""

    peer: PeerId
    models: tuple[ServedModel, ...]
    capacity: int
    free: int
    closed: bool = True
    """Whether its breaker lets calls through."""


@dataclass(frozen=True, slots=True)
class Match:
    """The workers to try, best first, each with the model it would serve."""

    choices: tuple[tuple[WorkerState, ServedModel], ...]


@dataclass(frozen=True, slots=True)
class NoMatch:
    """reason: unknown (no worker has the model), busy (all that have it are full), broken (those with room failed)."""

    reason: str
    models: tuple[str, ...]


def match(
    job: bytes, model: str, version: str, workers: Sequence[WorkerState], exclude: Collection[PeerId] = ()
) -> Match | NoMatch:
    """Rank the workers for a job. version "": any, but one version only: the newest by name among those with room."""
    able = [(worker, served) for worker in workers if (served := serves(worker, model, version)) is not None]
    if not able:
        there = sorted({served.name for worker in workers for served in worker.models})
        return NoMatch("unknown", tuple(there))
    allowed = [(worker, served) for worker, served in able if worker.peer not in exclude and worker.closed]
    if not allowed:
        return NoMatch("broken", (model,))
    roomy = [(worker, served) for worker, served in allowed if worker.free > 0]
    if not roomy:
        return NoMatch("busy", (model,))
    newest = max(served.version for _, served in roomy)
    ranked = sorted(
        ((worker, served) for worker, served in roomy if served.version == newest),
        key=lambda choice: weight(job, choice[0].peer),
    )
    first_two = sorted(ranked[:2], key=lambda choice: load(choice[0]))
    return Match((*first_two, *ranked[2:]))


def serves(worker: WorkerState, model: str, version: str) -> ServedModel | None:
    """The model of that name that a worker serves; of several versions the newest by name."""
    found = [served for served in worker.models if served.name == model and version in ("", served.version)]
    return max(found, key=lambda served: served.version, default=None)


def weight(job: bytes, worker: PeerId) -> bytes:
    """The rendezvous hash; lower is better."""
    return hashlib.blake2b(job + worker.encode(), digest_size=16).digest()


def load(worker: WorkerState) -> float:
    return 1.0 - worker.free / worker.capacity
