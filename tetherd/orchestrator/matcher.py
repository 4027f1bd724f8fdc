"""Which worker gets a job. Pure: two leaders with the same view choose the same one.

Filter (serves the model, did not fail this job, its breaker lets work through, has room), then whoever is exact where
that was asked for, then whoever has the model in memory, then whoever has computed most of the prompt's beginning
before, then the less loaded of the job's first two by weighted rendezvous hashing (Thaler and Ravishankar 1998; the
weights as in draft-ietf-bess-weighted-hrw): jobs spread by how fast the workers are, the same job lands on the same
worker from any leader, and a busy worker is passed over.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from p2p.identity import PeerId
from p2p.messages import ServedModel

BUSY_LOAD: Final = 0.75
"""Above it a worker's other answers cost a request more than a computed beginning saves."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a job asks of a worker. version, digest: "" is any; exclude: those that failed this job.

    exact: one whose answers are reproducible to the bit, if one has room; prefixes: digests of how it begins, the
    shortest first; only: the workers that may have it, None: any.
    """

    job: bytes
    model: str
    version: str = ""
    digest: str = ""
    exclude: frozenset[PeerId] = frozenset()
    exact: bool = False
    prefixes: tuple[bytes, ...] = ()
    only: frozenset[PeerId] | None = None


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A live worker as the matcher sees it. free: slots that nobody has or was promised, below 0 when overbooked.

    broken: names of models for which its breaker lets nothing through; full: digests of those that it just refused;
    prefixes: digests of beginnings that it has computed lately.
    """

    peer: PeerId
    models: tuple[ServedModel, ...]
    capacity: int
    free: int
    broken: frozenset[str] = frozenset()
    full: frozenset[str] = frozenset()
    prefixes: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Match:
    """The workers to try, best first, each with what it would serve."""

    choices: tuple[tuple[WorkerState, ServedModel], ...]


Reason = Literal["unserved", "excluded", "broken", "busy"]


@dataclass(frozen=True, slots=True)
class NoMatch:
    """unserved: nobody has the model; excluded: all who have it failed this job; broken: all others failed lately."""

    reason: Reason


def match(wish: Wish, workers: Iterable[WorkerState]) -> Match | NoMatch:
    """Rank the workers for a job. Of several manifests, those with the newest version by name count."""
    able = [
        (worker, served)
        for worker in workers
        if (served := served_by(worker, wish)) is not None and (wish.only is None or worker.peer in wish.only)
    ]
    if not able:
        return NoMatch("unserved")
    allowed = [choice for choice in able if choice[0].peer not in wish.exclude]
    if not allowed:
        return NoMatch("excluded")
    whole = [choice for choice in allowed if wish.model not in choice[0].broken]
    if not whole:
        return NoMatch("broken")
    roomy = [
        (worker, served) for worker, served in whole if worker.free > 0 and served.digest not in worker.full
    ]
    if not roomy:
        return NoMatch("busy")
    newest = max(_age(served) for _, served in roomy)
    current = [choice for choice in roomy if _age(choice[1]) == newest]
    usual = usual_speed(served for _, served in current)
    ranked = sorted(
        current, key=lambda choice: rank(wish.job, choice[0].peer, choice[1].tokens_per_second or usual)
    )
    first_two = sorted(ranked[:2], key=lambda choice: load(choice[0]))
    preferred = sorted(
        (*first_two, *ranked[2:]),
        key=lambda choice: (
            wish.exact and not choice[1].exact,
            not choice[1].loaded,
            -affinity(wish, choice[0]),
        ),
    )
    return Match(tuple(preferred))


def served_by(worker: WorkerState, wish: Wish) -> ServedModel | None:
    """What a worker would serve: the newest by name of what is asked for."""
    found = [
        served
        for served in worker.models
        if served.name == wish.model
        and wish.version in ("", served.version)
        and wish.digest in ("", served.digest)
    ]
    return max(found, key=_age, default=None)


def affinity(wish: Wish, worker: WorkerState) -> int:
    """How much of the prompt it has computed, by the rank of the longest beginning; 0 where it has too much to do."""
    if not wish.prefixes or load(worker) > BUSY_LOAD:
        return 0
    return max((rank for rank, one in enumerate(wish.prefixes, 1) if one in worker.prefixes), default=0)


def rank(job: bytes, worker: PeerId, speed: float) -> tuple[float, bytes]:
    """A job's own order of the workers, the lowest first; over all jobs each comes first in proportion to its speed."""
    digest = hashlib.blake2b(job + worker.encode(), digest_size=16).digest()
    drawn = (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)
    return -math.log1p(-drawn) / speed, digest


def usual_speed(models: Iterable[ServedModel]) -> float:
    """What a worker counts as that nobody has measured: as the middle one of the others."""
    known = [one.tokens_per_second for one in models if one.tokens_per_second > 0]
    return statistics.median(known) if known else 1.0


def load(worker: WorkerState) -> float:
    """Of 1."""
    return 1.0 - worker.free / worker.capacity


def _age(served: ServedModel) -> tuple[str, str]:
    return served.version, served.digest
