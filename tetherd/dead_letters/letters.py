"""Where letters are kept: one contract for memory, the ledger's database and Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import trio

from tetherd.dead_letters.letter import Letter

MAX_LETTERS: Final = 10_000
"""Some 10 MB; whoever has more has one cause for them, and the newest show it."""
KEPT_S: Final = 14 * 86_400.0
"""A fortnight: longer than anybody's holiday from being on call."""
FOUND: Final = 10


class Letters(Protocol):
    """All methods are durable when they return, and raise TetherError(LEDGER_UNAVAILABLE) if they cannot be."""

    async def add(self, letter: Letter) -> bool:
        """False if the job's letter is here already; it stays as it is."""
        ...

    async def newest(self, limit: int) -> Sequence[Letter]: ...

    async def oldest(self, limit: int) -> Sequence[Letter]: ...

    async def find(self, prefix: str) -> Sequence[Letter]:
        """Those whose job in lower-case hex starts with prefix, in that order (at most 10)."""
        ...

    async def drop(self, job: bytes) -> bool: ...

    async def forget(self, before: float, most: int) -> None:
        """Drop what ended before that, and the oldest beyond that many."""
        ...

    async def count(self) -> int: ...


class MemoryLetters:
    """Implements `Letters` for a ledger in memory."""

    def __init__(self) -> None:
        self._letters: dict[bytes, Letter] = {}

    async def add(self, letter: Letter) -> bool:
        await trio.lowlevel.checkpoint()
        return self._letters.setdefault(letter.job, letter) is letter

    async def newest(self, limit: int) -> Sequence[Letter]:
        await trio.lowlevel.checkpoint()
        return list(reversed(self._by_age()))[:limit]

    async def oldest(self, limit: int) -> Sequence[Letter]:
        await trio.lowlevel.checkpoint()
        return self._by_age()[:limit]

    async def find(self, prefix: str) -> Sequence[Letter]:
        await trio.lowlevel.checkpoint()
        found = sorted(job for job in self._letters if job.hex().startswith(prefix))
        return [self._letters[job] for job in found[:FOUND]]

    async def drop(self, job: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        return self._letters.pop(job, None) is not None

    async def forget(self, before: float, most: int) -> None:
        await trio.lowlevel.checkpoint()
        by_age = self._by_age()
        surplus = len(by_age) - most
        for rank, letter in enumerate(by_age):
            if rank < surplus or letter.ended < before:
                del self._letters[letter.job]

    async def count(self) -> int:
        await trio.lowlevel.checkpoint()
        return len(self._letters)

    def _by_age(self) -> list[Letter]:
        return sorted(self._letters.values(), key=lambda letter: (letter.ended, letter.job))
