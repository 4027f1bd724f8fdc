"""One contract, every driver: what a ledger promises about jobs, attempts, leases and bills."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from p2p.errors import DATA_DIR_INVALID, IN_FLIGHT, RESULT_GONE, RETRY_TOKEN_CONFLICT, TetherError
from p2p.identity import PeerId
from tetherd.store import open_store
from tetherd.store.protocol import AttemptRecord, JobRecord, Store
from tetherd.store.sqlite import SqliteStore

HERE, THERE = PeerId("12D3here"), PeerId("12D3there")
ONE, TWO = PeerId("12D3one"), PeerId("12D3two")


def job(number: int = 1, **changes: object) -> JobRecord:
    fresh = JobRecord(
        job=bytes([number]) * 32,
        tenant="local",
        retry_token=f"token-{number}",
        model="demo",
        gateway=HERE,
        request_mac=b"m" * 32,
        state="running",
        attempt=0,
        owner=PeerId("12D3owner"),
        created=100.0 + number,
        lease_until=115.0,
        deadline=160.0,
    )
    return replace(fresh, **changes)  # type: ignore[arg-type]


def attempt(worker: PeerId = ONE, grant: bytes = b"g1") -> AttemptRecord:
    return AttemptRecord(0, grant, worker, "eu", 100.0)


async def settle(store: Store, row: JobRecord, tokens: int = 7, end: str = "done", cause: str = "") -> bool:
    return await store.settle(
        row.job,
        row.attempt,
        end,
        prompt_tokens=5,
        tokens=tokens,
        first_token=101.0,
        cause=cause,
        now=110.0,  # type: ignore[arg-type]
    )


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = open_store(request.param, tmp_path / "ledger.db")
    yield store
    await store.close()


async def test_a_claim_begins_the_first_attempt(store: Store) -> None:
    row = await store.claim(job(), attempt(), now=100.0)
    assert (row.state, row.attempt, row.attempts[0].attempt) == ("running", 1, 1)
    assert await store.get(row.job) == row
    assert await store.get(b"x" * 32) is None


async def test_the_same_gateway_may_claim_the_next_attempt_and_the_last_one_is_closed_with_its_cause(
    store: Store,
) -> None:
    await store.claim(job(), attempt(), now=100.0)
    row = await store.claim(job(cause="CALL_LOST", attempt=1), attempt(TWO, b"g2"), now=105.0)
    assert row.attempt == 2
    assert [(one.worker, one.cause, one.end) for one in row.attempts] == [
        (ONE, "CALL_LOST", 105.0),
        (TWO, "", None),
    ]


async def test_an_attempt_is_above_all_that_the_gateway_knows_of_even_in_a_young_ledger(store: Store) -> None:
    assert (await store.claim(job(attempt=3), attempt(), now=100.0)).attempt == 4


async def test_another_body_under_the_same_token_is_a_conflict(store: Store) -> None:
    await store.claim(job(), attempt(), now=100.0)
    with pytest.raises(TetherError) as caught:
        await store.claim(job(request_mac=b"x" * 32), attempt(), now=100.0)
    assert caught.value.code is RETRY_TOKEN_CONFLICT


async def test_another_gateway_waits_for_the_lease(store: Store) -> None:
    await store.claim(job(), attempt(), now=100.0)
    with pytest.raises(TetherError) as caught:
        await store.claim(job(gateway=THERE), attempt(), now=105.0)
    assert (caught.value.code, caught.value.retry_after_s) == (IN_FLIGHT, 10.0)
    assert (await store.claim(job(gateway=THERE), attempt(), now=115.0)).gateway == THERE


async def test_a_job_ends_once_and_is_gone_for_new_claims(store: Store) -> None:
    row = await store.claim(job(), attempt(), now=100.0)
    assert await settle(store, row)
    assert not await settle(store, row, end="failed")
    ended = await store.get(row.job)
    assert ended is not None
    assert (ended.state, ended.prompt_tokens, ended.tokens) == ("done", 5, 7)
    assert (ended.attempts[0].tokens, ended.attempts[0].first_token, ended.attempts[0].end) == (
        7,
        101.0,
        110.0,
    )
    with pytest.raises(TetherError) as caught:
        await store.claim(job(), attempt(), now=111.0)
    assert caught.value.code is RESULT_GONE


async def test_a_lower_attempt_ends_nothing_but_may_raise_the_bill(store: Store) -> None:
    first = await store.claim(job(), attempt(), now=100.0)
    second = await store.claim(job(attempt=1), attempt(TWO, b"g2"), now=105.0)
    assert not await settle(store, first, tokens=9)
    still = await store.get(first.job)
    assert still is not None
    assert (still.state, still.tokens) == ("running", 9)
    assert await settle(store, second, tokens=4)
    ended = await store.get(first.job)
    assert ended is not None
    assert ended.tokens == 9


async def test_only_the_current_grant_renews_the_lease(store: Store) -> None:
    row = await store.claim(job(), attempt(), now=100.0)
    assert await store.renew(row.job, 1, b"g1", lease_until=130.0)
    assert not await store.renew(row.job, 1, b"other", lease_until=140.0)
    assert not await store.renew(row.job, 2, b"g1", lease_until=140.0)
    assert not await store.renew(b"x" * 32, 1, b"g1", lease_until=140.0)
    kept = await store.get(row.job)
    assert kept is not None
    assert kept.lease_until == 130.0


async def test_a_sweep_ends_only_what_is_past_its_lease_and_its_deadline(store: Store) -> None:
    late = await store.claim(job(1), attempt(), now=100.0)
    leased = await store.claim(job(2, lease_until=500.0), attempt(), now=100.0)
    assert await store.sweep(now=159.0) == []
    [dead] = await store.sweep(now=161.0)
    assert (dead.job, dead.state, dead.cause) == (late.job, "dead_lettered", "DEADLINE")
    assert await store.sweep(now=161.0) == []
    running = await store.get(leased.job)
    assert running is not None
    assert running.state == "running"


async def test_jobs_are_listed_newest_first_and_found_by_the_beginning_of_their_id(store: Store) -> None:
    for number in (1, 2, 3):
        await store.claim(job(number), attempt(), now=100.0)
    assert [row.job[0] for row in await store.recent(2)] == [3, 2]
    assert [row.job[0] for row in await store.find("0202")] == [2]
    assert await store.find("ff") == []


async def test_a_refused_claim_undoes_nothing_of_those_that_commit_with_it(store: Store) -> None:
    await store.claim(job(1), attempt(), now=100.0)
    refused: list[int] = []

    async def claim(number: int) -> None:
        try:
            await store.claim(job(number, request_mac=b"x" * 32), attempt(), now=100.0)
        except TetherError:
            refused.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(1, 40):
            nursery.start_soon(claim, number)
    assert refused == [1]
    assert len(await store.recent(100)) == 39


async def test_what_sqlite_has_answered_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    script = (
        "import os, signal, sys, trio, pathlib\n"
        "from tests.tetherd.store.test_contract import attempt, job\n"
        "from tetherd.store import open_store\n"
        "async def main():\n"
        "    store = open_store('sqlite', pathlib.Path(sys.argv[1]))\n"
        "    for number in range(1, 6):\n"
        "        await store.claim(job(number), attempt(), now=100.0)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "trio.run(main)\n"
    )
    ended = await trio.run_process([sys.executable, "-c", script, str(path)], check=False)
    assert ended.returncode == -9
    store = open_store("sqlite", path)
    assert len(await store.recent()) == 5
    await store.close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_ledger_with_an_altered_migration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE migrations SET checksum = 'x'")
    connection.close()
    with pytest.raises(TetherError) as caught:
        SqliteStore(path)
    assert caught.value.code is DATA_DIR_INVALID


async def test_a_file_that_is_no_ledger_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database, by any means at all" * 100)
    with pytest.raises(TetherError, match=r"ledger\.db"):
        SqliteStore(tmp_path / "ledger.db")
