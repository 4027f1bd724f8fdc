"""All letters of a ledger: in Redis where there is one, in the table while it is away.

A letter goes into the table when Redis does not take it, and from there to Redis once that is back: first added there,
then dropped here. Either may be said twice, so a crash between the two doubles nothing, and what timed out but was
taken after all is one letter still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from p2p.errors import TetherError
from tetherd.dead_letters.letter import Letter
from tetherd.dead_letters.letters import FOUND, KEPT_S, MAX_LETTERS, Letters

DRAIN_AT_ONCE: Final = 100
_log: Final = structlog.get_logger()


class LetterMetrics(Protocol):
    def letter_added(self, cause: str) -> None: ...

    def letters(self, kept: int, waiting: int) -> None:
        """How many there are in all; how many of them wait for Redis."""
        ...

    def quarantined(self, inputs: int) -> None: ...


class NoMetrics:
    """Counts nothing."""

    def letter_added(self, cause: str) -> None:
        pass

    def letters(self, kept: int, waiting: int) -> None:
        pass

    def quarantined(self, inputs: int) -> None:
        pass


class Shelf:
    """table: there as much as the ledger is; redis: None, if letters are to be in the table; now: the ledger's time."""

    def __init__(
        self,
        table: Letters,
        redis: Letters | None = None,
        *,
        now: Callable[[], float],
        metrics: LetterMetrics = NoMetrics(),  # noqa: B008 it keeps nothing
    ) -> None:
        self._table = table
        self._redis = redis
        self._now = now
        self._metrics = metrics
        self._away = False

    async def tidy(self) -> None:
        """Bring to Redis what waits for it, and forget what is too old. Raises LEDGER_UNAVAILABLE if either is away."""
        if self._redis is not None:
            await self._drain(self._redis)
        for place in self._places():
            await place.forget(self._now() - KEPT_S, MAX_LETTERS)
        waiting = await self._table.count()
        kept = waiting if self._redis is None else waiting + await self._redis.count()
        self._metrics.letters(kept, 0 if self._redis is None else waiting)

    async def add(self, letter: Letter) -> None:
        """Keep a letter; again is no harm. Raises TetherError(LEDGER_UNAVAILABLE) if nobody can."""
        if await self._put(letter):
            self._metrics.letter_added(letter.cause)
            _log.error(
                "dead_letter",
                job=letter.job.hex(),
                cause=letter.cause,
                model=letter.model,
                attempts=len(letter.tries),
                trace_id=letter.trace_id,
            )

    async def newest(self, limit: int) -> list[Letter]:
        found = {letter.job: letter for place in self._places() for letter in await self._asked(place, limit)}
        return sorted(found.values(), key=lambda letter: (-letter.ended, letter.job))[:limit]

    async def find(self, prefix: str) -> list[Letter]:
        """At most ten. Raises TetherError(LEDGER_UNAVAILABLE) unless both places answer."""
        found = {letter.job: letter for place in self._places() for letter in await place.find(prefix)}
        return [found[job] for job in sorted(found)][:FOUND]

    async def drop(self, job: bytes) -> bool:
        """Raises TetherError(LEDGER_UNAVAILABLE) if either place is away: it might come back from there."""
        return any([await place.drop(job) for place in self._places()])

    async def _put(self, letter: Letter) -> bool:
        if self._redis is not None:
            try:
                added = await self._redis.add(letter)
            except TetherError as error:
                self._note(away=True, detail=error.detail)
            else:
                self._note(away=False)
                return added
        return await self._table.add(letter)

    async def _drain(self, redis: Letters) -> None:
        while waiting := await self._table.oldest(DRAIN_AT_ONCE):
            for letter in waiting:
                await redis.add(letter)
                await self._table.drop(letter.job)
            _log.info("dead_letters.drained", letters=len(waiting))

    async def _asked(self, place: Letters, limit: int) -> Sequence[Letter]:
        """What can be shown is shown, also while Redis is away."""
        try:
            return await place.newest(limit)
        except TetherError:
            if place is self._table:
                raise
            return ()

    def _places(self) -> list[Letters]:
        return [self._table] if self._redis is None else [self._redis, self._table]

    def _note(self, *, away: bool, detail: str = "") -> None:
        if away is not self._away:
            self._away = away
            (_log.error if away else _log.info)(
                "dead_letters.redis_away" if away else "dead_letters.redis_back", detail=detail
            )
