"""PostgreSQL: asyncpg behind a portal, a fixed pool, statements prepared once, everything within a time.

While the server is away, callers are refused at once, and only one of them tries again after each pause.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import structlog
import trio

from p2p.errors import CONFIG_INVALID, LEDGER_UNAVAILABLE, TetherError
from tetherd.store.database import Dialect, Result, Script, SqlRow, Statement
from tetherd.store.migrate import migrate
from tetherd.store.portal import Portal

if TYPE_CHECKING:
    import asyncpg

POOL_SIZE: Final = 4
"""A leader's claims go in batches, so that few connections do; 100 is what a server has for all."""
CONNECT_S: Final = 3.0
STATEMENT_S: Final = 4.0
"""When the server gives a statement up."""
GIVE_UP_S: Final = 5.0
"""When this side stops waiting for a statement, should the server not keep to its own limit."""
MAX_PAUSE_S: Final = 5.0
TRIES: Final = 4
"""For transactions that another one came in the way of."""
CLOCK_S: Final = 60.0
"""How often the server's clock is read again; quartz drifts some milliseconds in that time."""
CLOSE_S: Final = 2.0
Drive = Callable[["asyncpg.Connection", Script[Result]], Coroutine[Any, Any, Result]]

_SERVER_SETTINGS: Final = {
    "application_name": "tether",
    "statement_timeout": str(int(STATEMENT_S * 1000)),
    "lock_timeout": str(int(STATEMENT_S * 1000)),
    "idle_in_transaction_session_timeout": "10000",
    "synchronous_commit": "on",
}
_AWAY: Final = ("08", "25006", "53", "57", "58", "XX")
"""SQLSTATEs, or how they begin, of a server that cannot now: connection, read-only, full, stopping, disk, broken."""
_AGAIN: Final = ("40001", "40P01")
_log: Final = structlog.get_logger()


class PostgresDatabase:
    """Implements `Database`. Made by `open_postgres`; shown: its URL without what must not be shown."""

    dialect: Final[Dialect] = "postgresql"

    def __init__(self, portal: Portal, pool: asyncpg.Pool, shown: str) -> None:
        self._portal = portal
        self._pool = pool
        self._shown = shown
        self._failures = 0
        self._retry_at_s = 0.0
        self._ahead_s = 0.0
        self._clock_read_s = 0.0

    async def transact(self, make: Callable[[], Script[Result]]) -> Result:
        return await self._run(_transact, make)

    async def each(self, make: Callable[[], Script[Result]]) -> Result:
        return await self._run(_drive, make)

    def now(self) -> float:
        return time.time() + self._ahead_s

    async def close(self) -> None:
        with trio.move_on_after(CLOSE_S, shield=True):
            await self._portal.run(self._pool.close)  # cancelled, it breaks the connections off
        await self._portal.close()

    async def read_clock(self) -> None:
        """Learn how far the server's clock is ahead of ours, to half a round trip."""
        self._clock_read_s, began = time.monotonic(), time.time()
        theirs = await self._run(_drive, _their_time)
        self._ahead_s = theirs - (began + time.time()) / 2

    async def _run(self, drive: Drive[Result], make: Callable[[], Script[Result]]) -> Result:
        if self._failures:
            wait = self._retry_at_s - time.monotonic()
            if wait > 0:
                raise self._away("it did not answer a moment ago")
            self._pause()  # this caller tries; those who come meanwhile are refused
        for left in reversed(range(TRIES)):
            problem, again, result = await self._portal.run(_attempt, self._pool, drive, make)
            if result is not None or not (again and left):
                break
        if result is None:
            self._failed(problem)
            raise self._away(problem)
        self._answered()
        if time.monotonic() > self._clock_read_s + CLOCK_S:
            await self.read_clock()
        answer: Result = result[0]
        return answer

    def _failed(self, problem: str) -> None:
        self._failures += 1
        self._pause()
        if self._failures == 1:
            _log.error("ledger.away", url=self._shown, why=problem)

    def _answered(self) -> None:
        if self._failures:
            _log.info("ledger.back", url=self._shown, failures=self._failures)
        self._failures = 0

    def _pause(self) -> None:
        """Full jitter, so that leaders do not come back all at once."""
        pause_s = random.uniform(0.1, min(MAX_PAUSE_S, 0.2 * 2.0 ** min(self._failures, 10)))
        self._retry_at_s = time.monotonic() + pause_s

    def _away(self, why: str) -> TetherError:
        wait_s = max(1.0, self._retry_at_s - time.monotonic())
        detail = f"The ledger at {self._shown} is away: {why}."
        return TetherError(LEDGER_UNAVAILABLE, detail, retry_after_s=wait_s)


async def open_postgres(url: str, *, size: int = POOL_SIZE, upgrade: bool = True) -> PostgresDatabase:
    """Connect, and bring the schema up to date unless upgrade is False.

    Raises TetherError(CONFIG_INVALID) without the extra, LEDGER_UNAVAILABLE, LEDGER_VERSION.
    """
    try:
        import asyncpg
    except ImportError as error:
        raise TetherError(
            CONFIG_INVALID, "store: PostgreSQL needs an extra: pip install 'tether[postgres]'.", field="store"
        ) from error
    shown, portal = redacted(url), Portal("postgresql")
    async with AsyncExitStack() as undo:
        undo.push_async_callback(portal.close)
        try:
            pool = await portal.run(_connect, url, size)
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            why = _reason(error).replace(url, shown)
            raise TetherError(
                LEDGER_UNAVAILABLE, f"The ledger at {shown} cannot be reached: {why}."
            ) from None
        database = PostgresDatabase(portal, pool, shown)
        undo.pop_all()
        undo.push_async_callback(database.close)
        if upgrade:
            await database.transact(lambda: migrate("postgresql"))
        await database.read_clock()
        undo.pop_all()
    return database


def redacted(url: str) -> str:
    """Where it is, and nothing that opens it: no user, password or options."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


# ── On the portal's loop ─────────────────────────────────────────────────────────────────────────────────────────


async def _connect(url: str, size: int) -> asyncpg.Pool:
    import asyncpg

    return await asyncpg.create_pool(
        url,
        min_size=size,
        max_size=size,
        timeout=CONNECT_S,
        command_timeout=GIVE_UP_S,
        statement_cache_size=512,
        max_inactive_connection_lifetime=0.0,
        server_settings=_SERVER_SETTINGS,
        reset=_leave_as_it_is,
    )


async def _leave_as_it_is(_connection: asyncpg.Connection) -> None:
    """No script changes its session, so that a round trip to reset it would be for nothing."""


async def _attempt(
    pool: asyncpg.Pool, drive: Drive[Result], make: Callable[[], Script[Result]]
) -> tuple[str, bool, tuple[Result] | None]:
    """The result in a tuple of one; or what is wrong with the server, and whether to try again at once."""
    import asyncpg

    try:
        async with pool.acquire(timeout=GIVE_UP_S) as connection:
            try:
                return "", False, (await drive(connection, make()),)
            except (TimeoutError, asyncpg.InternalClientError):
                connection.terminate()  # it is stuck, or was lost in mid-word: whoever waits for its end waits long
                raise
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        return _reason(error), False, None
    except asyncpg.PostgresError as error:
        if (state := error.sqlstate or "") in _AGAIN:
            return "other transactions came in the way", True, None
        if not state.startswith(_AWAY):
            raise
        return _reason(error), False, None


async def _transact(connection: asyncpg.Connection, script: Script[Result]) -> Result:
    async with connection.transaction():
        return await _drive(connection, script)


async def _drive(connection: asyncpg.Connection, script: Script[Result]) -> Result:
    try:
        statement = next(script)
        while True:
            rows: Sequence[SqlRow] = await connection.fetch(_numbered(statement.sql), *statement.values)
            statement = script.send(rows)
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        script.close()


def _their_time() -> Script[float]:
    ((now,),) = yield Statement("SELECT extract(epoch FROM clock_timestamp())::float8")
    return float(now)


@lru_cache(maxsize=1024)
def _numbered(sql: str) -> str:
    number = itertools.count(1)
    return re.sub(r"\?", lambda _mark: f"${next(number)}", sql)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
