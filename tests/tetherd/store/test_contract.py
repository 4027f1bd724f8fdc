"""One contract, every driver: what a ledger promises about jobs, attempts, leases and bills."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from p2p.errors import IN_FLIGHT, RESULT_GONE, RETRY_TOKEN_CONFLICT, TetherError
from tests.servers.postgres import PostgresServer
from tests.tetherd.store.rows import ONE, THERE, TWO, attempt, job, kept, settle
from tetherd.store import MemoryStore, SqliteDatabase, SqlStore, Store, open_postgres
from tetherd.store.jobs import KEEP_ENDED_S, LEASE_S, MAX_ATTEMPTS

DRIVERS = ("memory", "sqlite", "postgresql")


async def opened(driver: str, request: pytest.FixtureRequest, path: Path, max_jobs: int) -> Store:
    if driver == "memory":
        return MemoryStore(max_jobs=max_jobs)
    if driver == "sqlite":
        return SqlStore(SqliteDatabase(path / "ledger.db"), max_jobs=max_jobs)
    server: PostgresServer = request.getfixturevalue("postgres")
    return SqlStore(await open_postgres(server.new_database(), size=2), max_jobs=max_jobs)


@pytest.fixture(params=DRIVERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = await opened(request.param, request, tmp_path, 10_000)
    yield store
    await store.close()


@pytest.fixture(params=DRIVERS)
async def small_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Holds four rows."""
    store = await opened(request.param, request, tmp_path, 4)
    yield store
    await store.close()


# ── Claims ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_claim_begins_the_first_attempt(store: Store) -> None:
    row = await store.claim(job(), attempt(), now=100.0)
    assert (row.state, row.attempt, row.attempts[0].attempt) == ("running", 1, 1)
    assert await store.get(row.job) == row
    assert await store.get(b"x" * 32) is None


async def test_the_same_gateway_claims_the_next_attempt_and_the_last_one_is_closed_with_its_cause(
    store: Store,
) -> None:
    await store.claim(job(), attempt(), now=100.0)
    row = await store.claim(job(cause="CALL_LOST", attempt=1), attempt(TWO, b"g2"), now=105.0)
    assert row.attempt == 2
    assert [(one.worker, one.cause, one.end) for one in row.attempts] == [
        (ONE, "CALL_LOST", 105.0),
        (TWO, "", None),
    ]
    assert await store.get(row.job) == row


async def test_another_model_under_the_same_token_is_another_request(store: Store) -> None:
    await store.claim(job(), attempt(), now=100.0)
    with pytest.raises(TetherError) as caught:
        await store.claim(job(model="other", attempt=1), attempt(TWO, b"g2"), now=105.0)
    assert caught.value.code is RETRY_TOKEN_CONFLICT


async def test_an_attempt_is_above_all_that_the_gateway_knows_of_even_in_a_young_ledger(store: Store) -> None:
    assert (await store.claim(job(attempt=3), attempt(), now=100.0)).attempt == 4
    assert (await store.claim(job(attempt=7), attempt(), now=100.0)).attempt == 8


async def test_a_row_keeps_only_its_last_attempts(store: Store) -> None:
    for _ in range(MAX_ATTEMPTS + 3):
        row = await store.claim(job(), attempt(), now=100.0)
    assert (row.attempt, len(row.attempts)) == (MAX_ATTEMPTS + 3, MAX_ATTEMPTS)


async def test_another_body_under_the_same_token_is_a_conflict(store: Store) -> None:
    row = await store.claim(job(), attempt(), now=100.0)
    with pytest.raises(TetherError) as caught:
        await store.claim(job(request_mac=b"x" * 32), attempt(), now=100.0)
    assert caught.value.code is RETRY_TOKEN_CONFLICT
    assert await store.get(row.job) == row


async def test_another_gateway_waits_for_the_lease(store: Store) -> None:
    await store.claim(job(), attempt(), now=100.0)
    with pytest.raises(TetherError) as caught:
        await store.claim(job(gateway=THERE), attempt(), now=105.0)
    assert (caught.value.code, caught.value.retry_after_s) == (IN_FLIGHT, 10.0)
    assert (await store.claim(job(gateway=THERE), attempt(), now=115.0)).gateway == THERE


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


# ── Attempts that come to nothing ────────────────────────────────────────────────────────────────────────────────


async def test_a_withdrawn_attempt_is_closed_and_gives_its_lease_up_but_the_job_goes_on(store: Store) -> None:
    row = await store.claim(job(), attempt(), now=100.0)
    assert await store.withdraw(row.job, 1, "CAPACITY", now=101.0)
    after = await kept(store, row)
    assert (after.state, after.cause, after.lease_until) == ("running", "CAPACITY", 101.0)
    assert (after.attempts[0].end, after.attempts[0].cause) == (101.0, "CAPACITY")
    assert (await store.claim(job(gateway=THERE), attempt(), now=102.0)).attempt == 2


async def test_only_the_current_attempt_can_be_withdrawn(store: Store) -> None:
    await store.claim(job(), attempt(), now=100.0)
    row = await store.claim(job(), attempt(TWO, b"g2"), now=100.0)
    assert not await store.withdraw(row.job, 1, "CANCELLED", now=101.0)
    assert not await store.withdraw(b"x" * 32, 1, "CANCELLED", now=101.0)
    await settle(store, row)
    assert not await store.withdraw(row.job, 2, "CANCELLED", now=111.0)
    assert (await kept(store, row)).state == "done"


# ── Leases ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_only_the_current_grant_renews_the_lease(store: Store) -> None:
    row = await store.claim(job(), attempt(), now=100.0)
    assert await store.renew(row.job, 1, b"g1", lease_until=130.0)
    assert not await store.renew(row.job, 1, b"other", lease_until=140.0)
    assert not await store.renew(row.job, 2, b"g1", lease_until=140.0)
    assert not await store.renew(b"x" * 32, 1, b"g1", lease_until=140.0)
    assert (await kept(store, row)).lease_until == 130.0


async def test_a_lease_never_gets_shorter_and_ends_with_its_attempt(store: Store) -> None:
    row = await store.claim(job(), attempt(), now=100.0)
    assert await store.renew(row.job, 1, b"g1", lease_until=101.0)
    assert (await kept(store, row)).lease_until == 115.0
    await store.withdraw(row.job, 1, "CANCELLED", now=102.0)
    assert not await store.renew(row.job, 1, b"g1", lease_until=140.0)


# ── Settlements ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_job_ends_once_and_is_gone_for_new_claims(store: Store) -> None:
    row = await store.claim(job(), attempt(), now=100.0)
    assert await settle(store, row)
    assert not await settle(store, row, "failed")
    ended = await kept(store, row)
    assert (ended.state, ended.ended, ended.prompt_tokens, ended.tokens) == ("done", 110.0, 5, 7)
    assert (ended.attempts[0].tokens, ended.attempts[0].first_token, ended.attempts[0].end) == (
        7,
        101.0,
        110.0,
    )
    with pytest.raises(TetherError) as caught:
        await store.claim(job(), attempt(), now=111.0)
    assert caught.value.code is RESULT_GONE


async def test_a_job_that_is_not_here_is_not_ended_here(store: Store) -> None:
    assert not await settle(store, job())
    assert await store.recent() == []


async def test_a_lower_attempt_ends_nothing_but_may_raise_the_bill(store: Store) -> None:
    first = await store.claim(job(), attempt(), now=100.0)
    second = await store.claim(job(attempt=1), attempt(TWO, b"g2"), now=105.0)
    assert not await settle(store, first, tokens=9)
    still = await kept(store, first)
    assert (still.state, still.tokens) == ("running", 9)
    assert await settle(store, second, tokens=4)
    assert (await kept(store, first)).tokens == 9


async def test_a_late_receipt_raises_the_bill_within_one_lease_and_not_after(store: Store) -> None:
    row = await store.claim(job(), attempt(), now=100.0)
    await settle(store, row, tokens=7, now=110.0)
    await settle(store, row, tokens=9, now=110.0 + LEASE_S)
    await settle(store, row, tokens=30, now=110.0 + LEASE_S + 1)
    late = await kept(store, row)
    assert (late.tokens, late.ended) == (9, 110.0)


async def test_the_first_token_is_noted_at_the_attempt_that_was_under_way(store: Store) -> None:
    await store.claim(job(), attempt(), now=100.0)
    row = await store.claim(job(attempt=1), attempt(TWO, b"g2", 105.0), now=105.0)
    await settle(store, row, first_token=103.0, by_attempt={1: 2, 2: 5})
    ended = await kept(store, row)
    assert [(one.first_token, one.tokens) for one in ended.attempts] == [(103.0, 2), (None, 5)]


# ── Jobs of other ledgers ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_job_of_another_ledger_is_adopted_once(store: Store) -> None:
    ended = job(tenant="", request_mac=b"", state="done", ended=120.0, tokens=7)
    assert await store.adopt(ended)
    assert await store.get(ended.job) == ended
    assert not await store.adopt(job(state="failed", ended=121.0))
    assert (await kept(store, ended)).state == "done"
    with pytest.raises(TetherError) as caught:
        await store.claim(job(), attempt(), now=130.0)
    assert caught.value.code is RESULT_GONE


# ── Sweeps ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_sweep_ends_only_what_is_past_its_lease_and_its_deadline(store: Store) -> None:
    late = await store.claim(job(1), attempt(), now=100.0)
    leased = await store.claim(job(2, lease_until=500.0), attempt(), now=100.0)
    assert await store.sweep(now=159.0) == []
    [dead] = await store.sweep(now=161.0)
    assert (dead.job, dead.state, dead.cause, dead.ended) == (late.job, "dead_lettered", "DEADLINE", 161.0)
    assert (dead.attempts[0].end, dead.attempts[0].cause) == (161.0, "DEADLINE")
    assert await store.sweep(now=161.0) == []
    assert (await kept(store, leased)).state == "running"
    assert await kept(store, late) == dead


@pytest.mark.parametrize(("cause", "state"), [("CANCELLED", "cancelled"), ("CAPACITY", "failed")])
async def test_a_job_that_nobody_was_at_is_no_dead_letter(store: Store, cause: str, state: str) -> None:
    row = await store.claim(job(), attempt(), now=100.0)
    await store.withdraw(row.job, 1, cause, now=101.0)
    [ended] = await store.sweep(now=161.0)
    assert (ended.state, ended.cause) == (state, cause)


async def test_ended_jobs_are_forgotten_after_a_week(store: Store) -> None:
    old = await store.claim(job(1), attempt(), now=100.0)
    await settle(store, old, now=110.0)
    await store.sweep(now=110.0 + KEEP_ENDED_S)
    assert await store.get(old.job) is not None
    await store.sweep(now=111.0 + KEEP_ENDED_S)
    assert await store.get(old.job) is None


async def test_a_full_ledger_forgets_the_jobs_that_ended_first_and_never_one_that_runs(
    small_store: Store,
) -> None:
    running = [await small_store.claim(job(number), attempt(), now=100.0) for number in range(1, 8)]
    for row in running[4:1:-1]:
        await settle(small_store, row, now=110.0 - row.job[0])
    await small_store.sweep(now=112.0)
    assert sorted(row.job[0] for row in await small_store.recent()) == [1, 2, 6, 7]


# ── Looking things up ────────────────────────────────────────────────────────────────────────────────────────────


async def test_jobs_are_listed_newest_first_and_found_by_the_beginning_of_their_id(store: Store) -> None:
    for number in (1, 2, 3, 0x21):
        await store.claim(job(number), attempt(), now=100.0)
    assert [row.job[0] for row in await store.recent(2)] == [0x21, 3]
    assert [row.job[0] for row in await store.find("0")] == [1, 2, 3]
    assert [row.job[0] for row in await store.find("0202")] == [2]
    assert [row.job[0] for row in await store.find("21" * 32)] == [0x21]
    for nothing in ("ff", "02" * 32 + "0", "0X", "%", "ä"):
        assert await store.find(nothing) == []


# ── Copies ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_rows_of_another_ledger_are_kept_joined_with_what_is_here(store: Store) -> None:
    here = await store.claim(job(), attempt(), now=100.0)
    later = replace(here, attempt=2, lease_until=130.0)
    other = replace(here, job=b"o" * 32)
    await store.take([later, other])
    await store.take([here])
    assert await kept(store, here) == later
    assert await kept(store, other) == other


async def test_what_was_touched_since_is_read_page_by_page(store: Store) -> None:
    rows = [await store.claim(job(number), attempt(), now=100.0) for number in (3, 1, 2)]
    await settle(store, rows[1], now=400.0)
    first = await store.touched(110.0, b"", 2)
    rest = await store.touched(110.0, first[-1].job, 2)
    assert [row.job[0] for row in (*first, *rest)] == [1, 2, 3]
    assert await store.touched(110.0, rest[-1].job, 2) == []
    assert [row.job[0] for row in await store.touched(400.0, b"", 9)] == [1]
