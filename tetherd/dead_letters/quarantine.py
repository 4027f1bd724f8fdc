"""Inputs that kill workers, region-wide. Pure: counted from dead letters, whoever wrote them.

A worker refuses an input that its own engine died of three times (inference/quarantine.py); this is for one that goes
from worker to worker. The digest is keyed by the tenant, so one tenant's input says nothing about another's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from p2p.errors import CALL_LOST, ENGINE_FAILED, UNREACHABLE, WORKER_LOST
from p2p.identity import PeerId
from tetherd.dead_letters.letter import Letter

DEATHS: Final = 3
"""As many as one request has attempts: an input that used them all up is not tried on three more."""
WORKERS: Final = 2
"""Different ones: a worker that dies of everything is its breaker's business."""
HELD_S: Final = 600.0
"""From the last death. A power cut can look like poison; ten minutes later it does not."""
REMEMBERED: Final = 10_000
FATAL: Final = frozenset({code.name for code in (ENGINE_FAILED, CALL_LOST, WORKER_LOST, UNREACHABLE)})


class Quarantine:
    """Deaths by input."""

    def __init__(self) -> None:
        self._deaths: OrderedDict[bytes, dict[tuple[bytes, int], PeerId]] = OrderedDict()
        self._last: dict[bytes, float] = {}

    def learn(self, letter: Letter) -> bool:
        """Count a letter, once. True if its input is poison from now on."""
        died = {(letter.job, one.attempt): one.worker for one in letter.tries if one.cause in FATAL}
        if not letter.input or not died:
            return False
        known = self._deaths.setdefault(letter.input, {})
        before = _is_poison(known)
        known.update(died)
        self._deaths.move_to_end(letter.input)
        self._last[letter.input] = max(letter.ended, self._last.get(letter.input, 0.0))
        while len(self._deaths) > REMEMBERED:
            oldest, _ = self._deaths.popitem(last=False)
            del self._last[oldest]
        return _is_poison(known) and not before

    def wait_s(self, digest: bytes, now: float) -> float | None:
        """For how much longer an input is refused; None if it is not. now: ledger seconds."""
        if digest not in self._last:
            return None
        left = self._last[digest] + HELD_S - now
        if left <= 0:
            del self._deaths[digest], self._last[digest]
            return None
        return left if _is_poison(self._deaths[digest]) else None

    def held(self, now: float) -> int:
        """How many inputs are refused now."""
        return sum(self.wait_s(digest, now) is not None for digest in list(self._deaths))


def _is_poison(deaths: dict[tuple[bytes, int], PeerId]) -> bool:
    return len(deaths) >= DEATHS and len(set(deaths.values())) >= WORKERS
