"""What an operator asks of a ledger's database while no daemon need run."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tetherd.config import is_postgres_url
from tetherd.store.database import Database, Script, Statement
from tetherd.store.migrate import check as check_schema
from tetherd.store.migrate import inspect, migrate
from tetherd.store.postgres import open_postgres
from tetherd.store.sqlite import SqliteDatabase

MAX_CLOCK_DIFFERENCE_S: Final = 2.0
"""A lease is 15 s: what differs less ends nobody's."""

Findings = list[dict[str, Any]]


async def status(store: str, path: Path) -> Findings:
    """Every migration with its state: applied, pending, altered or unknown."""
    async with _opened(store, path) as database:
        return [asdict(one) for one in await database.transact(lambda: inspect(database.dialect))]


async def upgrade(store: str, path: Path) -> Findings:
    """Apply what is pending, and say how the schema stands. Raises TetherError(LEDGER_VERSION)."""
    async with _opened(store, path) as database:
        await database.transact(lambda: migrate(database.dialect))
        return [asdict(one) for one in await database.transact(lambda: inspect(database.dialect))]


async def check(store: str, path: Path) -> Findings:
    """What has to hold for a ledger to keep its promises, each with whether it does."""
    async with _opened(store, path) as database:
        found = await database.transact(lambda: inspect(database.dialect))
        check_schema(found)
        pending = [one.name for one in found if one.state == "pending"]
        findings = [
            _finding("schema", not pending, f"pending: {', '.join(pending)}" if pending else "up to date")
        ]
        if database.dialect == "sqlite":
            return [*findings, *await database.transact(_check_file)]
        ahead_s = database.now() - time.time()
        clock = _finding(
            "clock", abs(ahead_s) < MAX_CLOCK_DIFFERENCE_S, f"{ahead_s:+.3f} s from this machine's"
        )
        return [*findings, *await database.each(_check_server), clock]


def _check_file() -> Script[Findings]:
    ((said,), *_) = yield Statement("PRAGMA quick_check(1)")
    ((mode,),) = yield Statement("PRAGMA journal_mode")
    ((synchronous,),) = yield Statement("PRAGMA synchronous")
    return [
        _finding("file", said == "ok", str(said)),
        _finding(
            "durable", mode == "wal" and synchronous == 2, f"journal_mode={mode} synchronous={synchronous}"
        ),
    ]


def _check_server() -> Script[Findings]:
    ((replica,),) = yield Statement("SELECT pg_is_in_recovery()")
    ((fsync, commit),) = yield Statement(
        "SELECT current_setting('fsync'), current_setting('synchronous_commit')"
    )
    ((version,),) = yield Statement("SELECT current_setting('server_version')")
    return [
        _finding(
            "primary", not replica, "a replica, which takes no jobs" if replica else f"PostgreSQL {version}"
        ),
        _finding("durable", fsync == "on" and commit != "off", f"fsync={fsync} synchronous_commit={commit}"),
    ]


def _finding(name: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"check": name, "ok": ok, "detail": detail}


@asynccontextmanager
async def _opened(store: str, path: Path) -> AsyncIterator[Database]:
    database: Database = (
        await open_postgres(store, size=1, upgrade=False)
        if is_postgres_url(store)
        else SqliteDatabase(path, upgrade=False)
    )
    try:
        yield database
    finally:
        await database.close()
