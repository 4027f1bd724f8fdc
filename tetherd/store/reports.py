"""Reads that may be some seconds old: from a replica while it answers, else from the ledger itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
import trio

from p2p.errors import LEDGER_UNAVAILABLE, TetherError
from tetherd.store.database import Database, Result, Script
from tetherd.store.postgres import PostgresDatabase, open_postgres, redacted

RETRY_S: Final = 30.0
"""How long a replica that did not answer is left alone: a report waits for it once, not each time."""
_log: Final = structlog.get_logger()


class Reports:
    """url: of a streaming replica of the primary, which is connected to by the first report and never written."""

    def __init__(self, primary: Database, url: str = "") -> None:
        self._primary = primary
        self._url = url
        self._replica: PostgresDatabase | None = None
        self._retry_at = 0.0
        self._turn = trio.Lock()

    async def each(self, make: Callable[[], Script[Result]]) -> Result:
        """Run a script that only reads. Raises as `Database.each` of the primary does."""
        if self._url and trio.current_time() >= self._retry_at:
            import asyncpg

            try:
                return await (await self._opened()).each(make)
            except TetherError as error:
                if error.code is not LEDGER_UNAVAILABLE:
                    raise
                self._leave_alone(error.detail)
            except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
                self._leave_alone("it has not followed the last migration yet")
        return await self._primary.each(make)

    def _leave_alone(self, why: str) -> None:
        self._retry_at = trio.current_time() + RETRY_S
        _log.warning("replica.away", url=redacted(self._url), detail=why)

    async def close(self) -> None:
        if self._replica is not None:
            await self._replica.close()

    async def _opened(self) -> PostgresDatabase:
        async with self._turn:
            if self._replica is None:
                self._replica = await open_postgres(self._url, size=1, upgrade=False)
            return self._replica
