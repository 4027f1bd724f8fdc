"""Which attempts a worker has promised a slot, and which it runs. Pure: the shell brings the time.

    reserve ──> held ──claim (the grant is brought)──> running ──finish──> gone
                 └─ release, 15 s on this worker's own clock ─────────────^

- One job, one attempt: a lower attempt than any that was seen is refused, and a higher one supersedes those here.
- A grant is spent by its first claim. A held reservation outweighs the orchestrator's clock; without one, the grant's
  own not_after counts, and there has to be room.
- What is remembered is bounded: attempts by number, spent grants by the time for which they could be brought again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from p2p.errors import ATTEMPT_STALE, CAPACITY, DRAINING, GRANT_INVALID, MODEL_NOT_FOUND, TetherError
from p2p.messages import Grant, ReserveRequest

HELD_S: Final = 15.0
"""How long a reservation waits for its grant: what a grant lives."""
MAX_REMEMBERED: Final = 65_536
"""Jobs with their highest attempt, and spent grants: some 10 MB, and hours of work for one worker."""
CAPACITY_RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Use:
    """One slot in use. until: unix seconds, None while it runs."""

    job: bytes
    attempt: int
    digest: str
    until: float | None


class Slots:
    """capacity: slots by manifest digest."""

    def __init__(self, capacity: Mapping[str, int]) -> None:
        self._capacity = capacity
        self._used: dict[bytes, _Use] = {}
        self._attempts: OrderedDict[bytes, int] = OrderedDict()
        self._spent: OrderedDict[bytes, float] = OrderedDict()
        self.draining = False

    @property
    def capacity(self) -> int:
        return sum(self._capacity.values())

    @property
    def running(self) -> int:
        return sum(use.until is None for use in self._used.values())

    def load(self, now: float) -> int:
        """Slots that run or are held."""
        self._expire(now)
        return len(self._used)

    def reserve(self, asked: ReserveRequest, now: float) -> tuple[bytes, ...]:
        """Hold a slot; asking again for the same grant is no harm. Returns the running grants that it supersedes.

        Raises TetherError(DRAINING | MODEL_NOT_FOUND | ATTEMPT_STALE | GRANT_INVALID | CAPACITY).
        """
        self._expire(now)
        if self.draining:
            raise TetherError(DRAINING, "This worker is draining.")
        self._check_model(asked.manifest_digest)
        self._check_attempt(asked.job, asked.attempt)
        if asked.grant_id in self._spent:
            raise TetherError(GRANT_INVALID, "The grant has been used already.")
        if asked.grant_id in self._used:
            return ()
        return self._take(asked.grant_id, _Use(asked.job, asked.attempt, asked.manifest_digest, now + HELD_S))

    def release(self, job: bytes, grant_id: bytes) -> None:
        """Give a held slot back; one that runs, or is not known, is left alone."""
        use = self._used.get(grant_id)
        if use is not None and use.job == job and use.until is not None:
            del self._used[grant_id]

    def claim(self, grant: Grant, now: float) -> tuple[bytes, ...]:
        """Turn a grant into a running slot. Returns the running grants that it supersedes.

        Raises TetherError(MODEL_NOT_FOUND | ATTEMPT_STALE | GRANT_INVALID | DRAINING | CAPACITY).
        """
        self._expire(now)
        self._check_model(grant.manifest_digest)
        if grant.grant_id in self._spent:
            raise TetherError(GRANT_INVALID, "The grant has been used already.")
        self._check_attempt(grant.job, grant.attempt)
        held = self._used.get(grant.grant_id)
        if held is None:
            if now > grant.not_after:
                raise TetherError(GRANT_INVALID, "The grant has expired.")
            if self.draining:
                raise TetherError(DRAINING, "This worker is draining.")
        elif (held.job, held.digest) != (grant.job, grant.manifest_digest):
            raise TetherError(GRANT_INVALID, "The grant is not what was reserved here.")
        superseded = self._take(grant.grant_id, _Use(grant.job, grant.attempt, grant.manifest_digest, None))
        _remember(self._spent, grant.grant_id, max(grant.not_after, now + HELD_S))
        return superseded

    def finish(self, grant_id: bytes) -> None:
        self._used.pop(grant_id, None)

    def _take(self, grant_id: bytes, use: _Use) -> tuple[bytes, ...]:
        superseded = [
            key for key, other in self._used.items() if other.job == use.job and other.attempt < use.attempt
        ]
        in_use = sum(
            other.digest == use.digest
            for key, other in self._used.items()
            if key != grant_id and key not in superseded
        )
        if in_use >= self._capacity[use.digest]:
            raise TetherError(CAPACITY, "Every slot of this worker is taken.", retry_after_s=CAPACITY_RETRY_S)
        running = tuple(key for key in superseded if self._used[key].until is None)
        for key in superseded:
            del self._used[key]
        self._used[grant_id] = use
        _remember(self._attempts, use.job, use.attempt)
        return running

    def _check_model(self, digest: str) -> None:
        if digest not in self._capacity:
            raise TetherError(MODEL_NOT_FOUND, "This worker does not serve that model.", field="model")

    def _check_attempt(self, job: bytes, attempt: int) -> None:
        if attempt < self._attempts.get(job, attempt):
            raise TetherError(ATTEMPT_STALE, "A later attempt of this job was seen here.")

    def _expire(self, now: float) -> None:
        for grant_id in list(self._over(now)):
            del self._used[grant_id]
        while self._spent and next(iter(self._spent.values())) < now:
            self._spent.popitem(last=False)

    def _over(self, now: float) -> Iterator[bytes]:
        return (grant_id for grant_id, use in self._used.items() if use.until is not None and now > use.until)


_Value = TypeVar("_Value")


def _remember(known: OrderedDict[bytes, _Value], key: bytes, value: _Value) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > MAX_REMEMBERED:
        known.popitem(last=False)
