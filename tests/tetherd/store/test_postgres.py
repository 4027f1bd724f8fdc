"""What only a ledger on another machine can get wrong: leaders that share it, a server that dies or is stuck."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import pytest
import trio

from p2p.errors import LEDGER_UNAVAILABLE, LEDGER_VERSION, TetherError
from tests.servers.postgres import PostgresServer, postgres_server
from tests.tetherd.store.rows import HERE, THERE, attempt, job, kept, settle
from tetherd.store import SqlStore, open_postgres
from tetherd.store.database import Script, Statement
from tetherd.store.postgres import redacted


@pytest.fixture
async def leaders(postgres: PostgresServer) -> AsyncIterator[list[SqlStore]]:
    """Two that share one ledger."""
    url = postgres.new_database()
    stores = [SqlStore(await open_postgres(url, size=2), max_jobs=None) for _ in range(2)]
    yield stores
    for store in stores:
        await store.close()


# ── Two leaders ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_two_leaders_that_claim_one_job_at_once_begin_two_attempts_and_none_twice(
    leaders: list[SqlStore],
) -> None:
    numbers: list[int] = []

    async def claim(store: SqlStore) -> None:
        numbers.append((await store.claim(job(), attempt(), now=100.0)).attempt)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            for store in leaders:
                nursery.start_soon(claim, store)
    assert sorted(numbers) == list(range(1, 17))


async def test_of_two_gateways_with_one_token_at_two_leaders_one_is_served(leaders: list[SqlStore]) -> None:
    outcomes: list[str] = []

    async def claim(number: int, which: int) -> None:
        gateway = (HERE, THERE)[which]
        try:
            await leaders[which].claim(job(number, gateway=gateway), attempt(), now=100.0)
            outcomes.append("served")
        except TetherError as refusal:
            outcomes.append(refusal.code.name)

    async with trio.open_nursery() as nursery:
        for number in range(1, 21):
            for which in (0, 1):
                nursery.start_soon(claim, number, which)
    assert (outcomes.count("served"), outcomes.count("IN_FLIGHT")) == (20, 20)


async def test_a_job_that_two_leaders_settle_and_sweep_at_once_ends_once(leaders: list[SqlStore]) -> None:
    rows = [await leaders[0].claim(job(number), attempt(), now=100.0) for number in range(1, 21)]
    ends: list[bytes] = []

    async def end(store: SqlStore, number: int) -> None:
        if await settle(store, rows[number], now=161.0):
            ends.append(rows[number].job)

    async def sweep(store: SqlStore) -> None:
        ends.extend(row.job for row in await store.sweep(now=161.0))

    async with trio.open_nursery() as nursery:
        for store in leaders:
            nursery.start_soon(sweep, store)
            for number in range(20):
                nursery.start_soon(end, store, number)
    assert sorted(ends) == sorted(row.job for row in rows)
    assert {(await kept(leaders[1], row)).state for row in rows} <= {"done", "dead_lettered"}


async def test_leaders_agree_on_the_time_by_the_servers_clock(leaders: list[SqlStore]) -> None:
    for store in leaders:
        before = store.now()
        theirs = await store.database.each(_time)
        assert before - 1.0 < theirs < store.now() + 1.0


def _time() -> Script[float]:
    ((now,),) = yield Statement("SELECT extract(epoch FROM clock_timestamp())::float8")
    return float(now)


# ── Cancellation ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_script_that_is_cancelled_ends_over_there_and_is_undone(leaders: list[SqlStore]) -> None:
    database = leaders[0].database
    await leaders[0].claim(job(), attempt(), now=100.0)

    def slow() -> Script[None]:
        yield Statement("UPDATE jobs SET model = ?", ("other",))
        yield Statement("SELECT pg_sleep(?)", (3.0,))

    for _ in range(8):
        with trio.move_on_after(0.05) as scope:
            await database.transact(slow)
        assert scope.cancelled_caught
    assert (await kept(leaders[1], job())).model == "demo"
    assert await leaders[0].claim(job(2), attempt(), now=100.0)


async def test_a_defect_of_a_script_reaches_its_caller_and_undoes_it(leaders: list[SqlStore]) -> None:
    def broken() -> Script[None]:
        yield Statement("DELETE FROM jobs")
        raise ZeroDivisionError

    await leaders[0].claim(job(), attempt(), now=100.0)
    with pytest.raises(ZeroDivisionError):
        await leaders[0].database.transact(broken)
    assert len(await leaders[0].recent()) == 1


# ── The server ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_server_that_is_killed_refuses_with_a_wait_and_has_all_that_was_answered_when_it_is_back() -> (
    None
):
    with postgres_server() as server:
        store = SqlStore(await open_postgres(server.new_database(), size=2), max_jobs=None)
        for number in range(1, 6):
            await store.claim(job(number), attempt(), now=100.0)
        server.kill(signal.SIGKILL)
        with pytest.raises(TetherError) as caught:
            await store.claim(job(6), attempt(), now=100.0)
        assert caught.value.code is LEDGER_UNAVAILABLE
        assert caught.value.retry_after_s is not None
        server.start()
        rows = await _until_back(store)
        assert sorted(row.job[0] for row in rows if row.job[0] < 6) == [1, 2, 3, 4, 5]
        await store.close()


async def test_a_server_that_is_stuck_costs_one_caller_the_wait_and_the_others_nothing() -> None:
    with postgres_server("fsync=off") as server:
        store = SqlStore(await open_postgres(server.new_database(), size=2), max_jobs=None)
        server.signal_all(signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(TetherError) as caught:
                await store.claim(job(), attempt(), now=100.0)
            assert caught.value.code is LEDGER_UNAVAILABLE
        server.signal_all(signal.SIGCONT)
        await _until_back(store)
        await store.close()


async def _until_back(store: SqlStore) -> list[object]:
    while True:
        try:
            return list(await store.recent())
        except TetherError as away:
            assert away.code is LEDGER_UNAVAILABLE
            await trio.sleep(0.05)


async def test_a_ledger_of_a_newer_version_is_refused_in_one_sentence(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    await (await open_postgres(url, size=1)).close()
    postgres.sql("INSERT INTO migrations VALUES ('9999_future.sql', 'x')", url.rpartition("/")[2])
    with pytest.raises(TetherError, match="newer version of Tether") as caught:
        await open_postgres(url, size=1)
    assert caught.value.code is LEDGER_VERSION


async def test_daemons_that_start_at_once_migrate_once(postgres: PostgresServer) -> None:
    url = postgres.new_database()

    async def start() -> None:
        await (await open_postgres(url, size=1)).close()

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(start)


async def test_what_opens_the_ledger_is_in_no_message() -> None:
    url = "postgresql://user:s3cret@127.0.0.1:1/tether?sslpassword=other"
    assert redacted(url) == "postgresql://127.0.0.1:1/tether"
    with pytest.raises(TetherError) as caught:
        await open_postgres(url)
    assert caught.value.code is LEDGER_UNAVAILABLE
    assert "s3cret" not in str(caught.value)
    assert "other" not in str(caught.value)
