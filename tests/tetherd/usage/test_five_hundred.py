"""500 requests at once, from three gateways with leaders of their own at one PostgreSQL; a budget for a hundred."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.servers.postgres import PostgresServer, postgres_server
from tests.sources import ROOT
from tests.tetherd.usage.spender import OUTPUT_TOKENS
from tests.topics.world import NOW
from tetherd.store import SqlStore, open_postgres
from tetherd.store.database import Script, Statement

AFFORDED = 100
BUDGET = AFFORDED * OUTPUT_TOKENS
EACH = (167, 167, 166)
RECORDER = (
    "CREATE TABLE history (step SERIAL, spent BIGINT, running BIGINT)",
    "CREATE FUNCTION record() RETURNS trigger AS $$ BEGIN INSERT INTO history (spent, running) "
    "VALUES (NEW.settled_micros + NEW.reserved_micros, NEW.running); RETURN NEW; END $$ LANGUAGE plpgsql",
    "CREATE TRIGGER recorder AFTER INSERT OR UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION record()",
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server("fsync=off", "shared_buffers=16MB") as server:
        yield server


@asynccontextmanager
async def ledger(url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore(await open_postgres(url, size=1), max_jobs=None)
    try:
        yield store
    finally:
        await store.close()


async def prepare(url: str) -> None:
    """Record every state that an account has ever had."""

    def script() -> Script[None]:
        for statement in RECORDER:
            yield Statement(statement)

    async with ledger(url) as store:
        await store.database.transact(script)


def start(url: str, name: str, requests: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.tetherd.usage.spender", url, name, str(requests), str(BUDGET)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environ)


def finish(process: subprocess.Popen[str]) -> Counter[str]:
    said, _ = process.communicate(timeout=90)
    lines = [line for line in said.splitlines() if line.startswith("{")]
    assert process.returncode == 0 and lines, said
    return Counter(ast.literal_eval(lines[-1]))


async def check_history(store: SqlStore) -> None:
    """At no step was more spent and reserved than there was."""
    ((most, steps),) = await store.database.each(lambda: _rows("SELECT max(spent), count(*) FROM history"))
    assert most == BUDGET
    assert steps > 2


def _rows(sql: str) -> Script[list[list[int]]]:
    rows = yield Statement(sql)
    return [list(row) for row in rows]


async def test_exactly_as_many_are_served_as_the_budget_is_for(server: PostgresServer) -> None:
    url = server.new_database()
    await prepare(url)
    running = [start(url, f"gateway-{n}", requests) for n, requests in enumerate(EACH)]
    outcomes = sum(map(finish, running), Counter[str]())
    assert outcomes == {"served": AFFORDED, "QUOTA_EXCEEDED": sum(EACH) - AFFORDED}
    async with ledger(url) as store:
        await check_history(store)
        (account,) = await store.accounts(["tenant:acme"])
        assert (account.settled_micros, account.reserved_micros, account.running) == (BUDGET, 0, 0)
        await store.sweep(now=NOW + 1_000.0)
        rows = await store.usage_rows(0.0, 1e11)
        assert len({row.job for row in rows}) == len(rows) == AFFORDED
        assert sum(row.micros for row in rows) == BUDGET


async def test_who_is_killed_in_the_middle_leaks_nothing(server: PostgresServer) -> None:
    url = server.new_database()
    await prepare(url)
    running = [start(url, f"gateway-{n}", requests) for n, requests in enumerate(EACH)]
    victim = running[0]
    assert victim.stdout is not None
    for line in victim.stdout:
        if line.startswith("settled"):
            break
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    for process in running[1:]:
        finish(process)
    async with ledger(url) as store:
        await check_history(store)
        for now in (NOW + 1_000.0, NOW + 1_100.0):
            await store.sweep(now=now)
        (account,) = await store.accounts(["tenant:acme"])
        assert (account.reserved_micros, account.reserved_tokens, account.running) == (0, 0, 0)
        rows = await store.usage_rows(0.0, 1e11)
        assert sum(row.micros for row in rows) == account.settled_micros <= BUDGET
    left = AFFORDED - account.settled_micros // OUTPUT_TOKENS
    outcomes = finish(start(url, "afterwards", AFFORDED))
    assert outcomes == Counter({"served": left, "QUOTA_EXCEEDED": AFFORDED - left}) - Counter()
    async with ledger(url) as store:
        (account,) = await store.accounts(["tenant:acme"])
        assert (account.settled_micros, account.reserved_micros) == (BUDGET, 0)
        await check_history(store)
