"""Durable admissions a second, beside raw INSERTs of the same row by the same client into the same database.

Ours is `Store.claim`: the rules, the attempt, the row, committed. Raw is `INSERT … ON CONFLICT` and nothing else, once
a row at a time (PostgreSQL: a commit each, as many under way as there are connections; SQLite: in the same group
commit) and once in the very batches that ours goes in. As many callers wait at a time for each.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import outcome
import trio

from benchmarks.report import Row, say
from p2p.identity import PeerId
from tests.servers.postgres import postgres_server
from tetherd.store import SqliteDatabase, SqlStore, open_postgres
from tetherd.store.batcher import MAX_BATCH
from tetherd.store.database import Database, Script, Statement, placeholders
from tetherd.store.protocol import AttemptRecord, JobRecord
from tetherd.store.together import Together

ADMISSIONS: Final = 3_000
CALLERS: Final = 200
HALF_LOAD_S: Final = 3.0
TICK_S: Final = 0.001
"""How often arrivals are looked for, as a socket is read: a timer for each would cost more than the admission."""
FLOOR: Final = 0.4
AIM: Final = 0.7

_COLUMNS: Final = [field.name for field in fields(JobRecord)]
_numbers: Final = itertools.count(1)
Admit = Callable[[], Awaitable[Any]]


def measure(runs: int) -> list[Row]:
    """Three rows for PostgreSQL, with a server of its own (fsync on), and three for SQLite."""
    return [*trio.run(_in_postgres, runs), *trio.run(_in_sqlite, runs)]


async def _in_postgres(runs: int) -> list[Row]:
    with postgres_server() as server:
        store = SqlStore(await open_postgres(server.new_database()), max_jobs=None)
        return await _measure("PostgreSQL", store, "INSERT … ON CONFLICT, one a commit, same pool", runs)


async def _in_sqlite(runs: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        store = SqlStore(SqliteDatabase(Path(folder) / "ledger.db"))
        return await _measure("SQLite", store, "INSERT, synchronous=FULL, group commit", runs)


async def _measure(name: str, store: SqlStore, peer_name: str, runs: int) -> list[Row]:
    batches = Together(lambda rows: _insert_all(store.database, rows), MAX_BATCH)
    ours: list[float] = []
    single: list[float] = []
    batched: list[float] = []
    async with _closing(store):
        await _rate(lambda: _claim(store))
        for run in range(runs):
            ours.append(await _rate(lambda: _claim(store)))
            single.append(await _rate(lambda: _insert_all(store.database, [_row()])))
            batched.append(await _rate(lambda: batches.carry_out(_row())))
            say(
                f"{name} {run + 1}/{runs}: {ours[-1]:.0f} admissions/s, "
                f"{single[-1]:.0f} raw INSERTs/s, {batched[-1]:.0f} in batches"
            )
        half = statistics.median(ours) / 2
        late = [await _p99_ms(lambda: _claim(store), half) for _ in range(runs)]
    return [
        _beside(f"durable admissions, {name}", ours, single, peer_name),
        _beside("… beside raw batches", ours, batched, f"INSERT of up to {MAX_BATCH} rows, same batching"),
        Row(
            f"… p99 at half load ({half:.0f}/s)",
            "ms",
            statistics.median(late),
            None,
            "",
            None,
            "",
            None,
            runs,
        ),
    ]


def _beside(measure: str, ours: Sequence[float], raw: Sequence[float], peer_name: str) -> Row:
    ratio = statistics.median(a / b for a, b in zip(ours, raw, strict=True))
    return Row(
        measure,
        "/s",
        statistics.median(ours),
        statistics.median(raw),
        peer_name,
        ratio,
        f">= {AIM:g}x",
        ratio >= FLOOR,
        len(ours),
        f">= {FLOOR:g}x",
        ratio >= AIM,
    )


async def _claim(store: SqlStore) -> None:
    row = _row()
    await store.claim(row, row.attempts[0], now=row.created)


@lru_cache(maxsize=MAX_BATCH)
def _insert(rows: int) -> str:
    one = f"({placeholders(len(_COLUMNS))})"
    return (
        f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES {', '.join([one] * rows)} "
        "ON CONFLICT (job) DO NOTHING RETURNING job"
    )


async def _insert_all(database: Database, rows: Sequence[JobRecord]) -> list[outcome.Outcome[None]]:
    values: list[Any] = []
    for row in rows:
        values += [_JSON.get(name, getattr(row, name)) for name in _COLUMNS]

    def script() -> Script[None]:
        yield Statement(_insert(len(rows)), values)

    await database.each(script)
    return [outcome.Value(None) for _ in rows]


async def _rate(admit: Admit) -> float:
    async def caller() -> None:
        for _ in range(ADMISSIONS // CALLERS):
            await admit()

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(CALLERS):
            nursery.start_soon(caller)
    return ADMISSIONS / (time.perf_counter() - began)


async def _p99_ms(admit: Admit, rate: float) -> float:
    """Arrivals at a fixed rate, whether the earlier ones are answered or not."""
    took: list[float] = []

    async def one(due: float) -> None:
        await admit()
        took.append(trio.current_time() - due)

    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        for number in range(int(rate * HALF_LOAD_S)):
            due = began + number / rate
            if due > trio.current_time():
                await trio.sleep(TICK_S)
            nursery.start_soon(one, due)
    return statistics.quantiles(took, n=100)[98] * 1000


def _row() -> JobRecord:
    job = next(_numbers).to_bytes(32, "big")
    peer, now = PeerId("12D3KooWBenchmark" + "x" * 35), 1_000.0
    return JobRecord(
        job=job,
        tenant="local",
        retry_token=job.hex(),
        model="demo",
        digest="d" * 64,
        gateway=peer,
        request_mac=bytes(32),
        max_prompt_tokens=64,
        max_tokens=32,
        state="running",
        attempt=0,
        owner=peer,
        created=now,
        lease_until=now + 15.0,
        deadline=now + 60.0,
        attempts=(AttemptRecord(0, bytes(16), peer, "eu", now),),
    )


_ATTEMPTS: Final = (
    '[{"attempt":1,"grant_id":"AAAAAAAAAAAAAAAAAAAAAA==","worker":"12D3KooWBenchmark'
    + "x" * 35
    + '","region":"eu","start":1000.0,"first_token":null,"tokens":0,"end":null,"cause":""}]'
)
_JSON: Final = {"attempts": _ATTEMPTS, "hold": "null", "receipts": "[]"}


@asynccontextmanager
async def _closing(store: SqlStore) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await store.close()
