"""Events that have to leave: written with the usage row in one transaction, gone once somebody has taken them.

Whoever delivers claims some for a while; an event whose deliverer dies is due again after that. So each is delivered
at least once, and two leaders seldom deliver the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tetherd.store.database import Database, Dialect, Script, Statement, placeholders
from tetherd.store.protocol import UsageRow
from tetherd.store.usage_rows import COLUMNS, usage_row

HOOK_FORGOTTEN_S: Final = 7 * 86_400.0
"""After so long without an orchestrator that delivers, no more events are written: the webhook was given up."""
KEEP_DEAD_S: Final = 30 * 86_400.0
"""For `tetherctl usage webhook --retry`; the usage row itself stays for longer."""
_LIVE: Final = "dead = 0"


@dataclass(frozen=True, slots=True)
class Event:
    """tries: with this one; created: ledger seconds."""

    row: UsageRow
    created: float
    tries: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """waiting, dead: events; oldest: when the oldest that waits was written, 0: none; cause: why it waits."""

    waiting: int = 0
    dead: int = 0
    oldest: float = 0.0
    cause: str = ""


class Outbox:
    """now: ledger seconds. Every method raises TetherError(LEDGER_UNAVAILABLE)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, now: float) -> None:
        """Somebody delivers: from now on usage rows bring an event, and HOOK_FORGOTTEN_S long after the last call."""

        def script() -> Script[None]:
            change = "ON CONFLICT (only_row) DO UPDATE SET seen = excluded.seen"
            yield Statement(f"INSERT INTO usage_hook VALUES (1, ?) {change}", (now,))
            yield Statement("DELETE FROM usage_outbox WHERE dead = 1 AND created < ?", (now - KEEP_DEAD_S,))

        await self._database.transact(script)

    async def claim(self, limit: int, *, now: float, until: float) -> Sequence[Event]:
        """Those that are due, the longest first; nobody else is given them before until."""
        return await self._database.transact(lambda: _claim(limit, now, until, self._database.dialect))

    async def delivered(self, job: bytes) -> None:
        await self._run("DELETE FROM usage_outbox WHERE job = ?", job)

    async def failed(self, job: bytes, cause: str, *, due: float | None) -> None:
        """due: when to try again; None: never."""
        await self._run(
            "UPDATE usage_outbox SET due = ?, dead = ?, cause = ? WHERE job = ?",
            due or 0.0,
            int(due is None),
            cause,
            job,
        )

    async def revive(self, now: float) -> int:
        """Try what was given up once more, as if it were new; returns how many those are."""
        changed = await self._run(
            "UPDATE usage_outbox SET dead = 0, tries = 0, created = ?, due = ? WHERE dead = 1 RETURNING job",
            now,
            now,
        )
        return len(changed)

    async def backlog(self) -> Backlog:
        return await self._database.each(_backlog)

    async def _run(self, sql: str, *values: object) -> Sequence[Sequence[object]]:
        def script() -> Script[Sequence[Sequence[object]]]:
            return (yield Statement(sql, values))

        return await self._database.each(script)


def write_events(jobs: Sequence[bytes], now: float) -> Script[None]:
    """Of usage rows that are written in the same transaction."""
    if not jobs or not (
        yield Statement("SELECT 1 FROM usage_hook WHERE seen > ?", (now - HOOK_FORGOTTEN_S,))
    ):
        return
    rows = ", ".join(["(?, ?, ?, 0, 0, '')"] * len(jobs))
    values = [value for job in jobs for value in (job, now, now)]
    yield Statement(f"INSERT INTO usage_outbox VALUES {rows} ON CONFLICT (job) DO NOTHING", values)


def _claim(limit: int, now: float, until: float, dialect: Dialect) -> Script[list[Event]]:
    locked = " FOR UPDATE SKIP LOCKED" if dialect == "postgresql" else ""
    found = yield Statement(
        f"SELECT job FROM usage_outbox WHERE {_LIVE} AND due <= ? ORDER BY due, job LIMIT ?{locked}",
        (now, limit),
    )
    if not found:
        return []
    jobs = sorted(bytes(row[0]) for row in found)
    these = f"job IN ({placeholders(len(jobs))})"
    claimed = yield Statement(
        f"UPDATE usage_outbox SET due = ?, tries = tries + 1 WHERE {these} RETURNING job, created, tries",
        (until, *jobs),
    )
    known = {bytes(job): (created, tries) for job, created, tries in claimed}
    rows = yield Statement(f"SELECT {', '.join(COLUMNS)} FROM usage WHERE {these} ORDER BY ended, job", jobs)
    return [Event(row, *known[row.job]) for row in map(usage_row, rows)]


def _backlog() -> Script[Backlog]:
    ((waiting, oldest, dead),) = yield Statement(
        f"SELECT (SELECT count(*) FROM usage_outbox WHERE {_LIVE}), "
        f"(SELECT min(created) FROM usage_outbox WHERE {_LIVE}), "
        "(SELECT count(*) FROM usage_outbox WHERE dead = 1)"
    )
    causes = yield Statement("SELECT cause FROM usage_outbox WHERE cause <> '' ORDER BY created LIMIT 1")
    return Backlog(int(waiting), int(dead), float(oldest or 0.0), str(causes[0][0]) if causes else "")
