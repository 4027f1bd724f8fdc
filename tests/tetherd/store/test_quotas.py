"""Every driver keeps the same books: what is claimed is reserved, what is settled was reserved, the rest goes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from p2p.errors import QUOTA_EXCEEDED, RATE_LIMITED, Code, TetherError
from p2p.identity import NodeKey
from p2p.messages import Receipt, SignedReceipt
from p2p.wire import encode
from tests.tetherd.store.rows import ONE, TWO, attempt, job, kept
from tests.tetherd.store.test_contract import DRIVERS, opened
from tetherd.quotas.account import Account
from tetherd.quotas.hold import Hold
from tetherd.quotas.limits import Limits
from tetherd.store import SqlStore, Store
from tetherd.store.jobs import LEASE_S
from tetherd.store.protocol import Bill, JobRecord, Terms

WORST = 96
ACME = "tenant:acme"


@pytest.fixture(params=DRIVERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = await opened(request.param, request, tmp_path, 10_000)
    yield store
    await store.close()


def held(number: int = 1, **changes: Any) -> JobRecord:
    """64 + 32 tokens at most, a micro-unit each."""
    hold = Hold((ACME,), WORST, WORST, 1_000_000, 1_000_000)
    return job(number, tenant="acme", hold=hold, **changes)


async def claim(store: Store, row: JobRecord, limits: Limits, *, now: float = 100.0) -> JobRecord:
    return await store.claim(row, attempt(start=now), now=now, terms=[Terms(ACME, limits)])


async def books(store: Store) -> Account:
    (account,) = await store.accounts([ACME])
    return account


async def refused(store: Store, row: JobRecord, limits: Limits, *, now: float = 100.0) -> Code:
    before = await store.accounts([ACME])
    with pytest.raises(TetherError) as refusal:
        await claim(store, row, limits, now=now)
    assert await store.accounts([ACME]) == before or not before
    assert await store.get(row.job) is None
    return refusal.value.code


async def settle(store: Store, row: JobRecord, bill: Bill, *, now: float = 110.0) -> bool:
    return await store.settle(row.job, row.attempt, "done", bill, first_token=None, cause="", now=now)


async def test_the_worst_case_is_reserved_and_the_actual_settled(store: Store) -> None:
    limits = Limits(tokens_per_month=200, budget=1_000, concurrency=5)
    row = await claim(store, held(), limits)
    account = await books(store)
    assert (account.reserved_tokens, account.reserved_micros, account.running) == (WORST, WORST, 1)
    await settle(store, row, Bill(5, 7, {1: 7}))
    account = await books(store)
    assert (account.reserved_tokens, account.settled_tokens, account.running) == (0, 12, 0)
    assert (account.reserved_micros, account.settled_micros) == (0, 12)


async def test_what_clients_are_told_is_what_was_committed_last(store: Store) -> None:
    limits = Limits(requests_per_minute=5)
    assert store.seen([ACME]) == []
    row = await claim(store, held(1), limits)
    assert store.seen([ACME, "tenant:other"]) == await store.accounts([ACME])
    await refused(store, held(2), Limits(concurrency=1))
    assert store.seen([ACME]) == await store.accounts([ACME])
    await settle(store, row, Bill(5, 7, {1: 7}))
    assert store.seen([ACME]) == await store.accounts([ACME])


async def test_what_does_not_fit_is_refused_and_leaves_no_trace(store: Store) -> None:
    limits = Limits(tokens_per_month=2 * WORST - 1)
    row = await claim(store, held(1), limits)
    assert await refused(store, held(2), limits) is QUOTA_EXCEEDED
    await settle(store, row, Bill(5, 7, {1: 7}))
    await claim(store, held(2), limits)


async def test_a_budget_counts_money(store: Store) -> None:
    limits = Limits(budget=WORST)
    row = await claim(store, held(1), limits)
    assert await refused(store, held(2), limits) is QUOTA_EXCEEDED
    await settle(store, row, Bill(1, 0))
    assert await refused(store, held(2), limits) is QUOTA_EXCEEDED


async def test_a_new_month_begins_with_nothing_settled(store: Store) -> None:
    limits = Limits(tokens_per_month=WORST)
    november, december = 1_793_000_000.0, 1_796_200_000.0
    late = held(1, deadline=november + 60, lease_until=november + 15)
    row = await claim(store, late, limits, now=november)
    await settle(store, row, Bill(64, 32, {1: 32}), now=november + 9)
    assert await refused(store, held(2), limits, now=november + 10) is QUOTA_EXCEEDED
    await claim(store, held(2), limits, now=december)


async def test_requests_and_tokens_leak_within_a_minute(store: Store) -> None:
    limits = Limits(requests_per_minute=2)
    for number in (1, 2):
        await claim(store, held(number), limits)
    assert await refused(store, held(3), limits) is RATE_LIMITED
    await claim(store, held(3), limits, now=131.0)


async def test_tokens_leak_within_a_minute(store: Store) -> None:
    limits = Limits(tokens_per_minute=2 * WORST)
    for number in (1, 2):
        await claim(store, held(number), limits)
    assert await refused(store, held(3), limits) is RATE_LIMITED
    await claim(store, held(3), limits, now=130.0)


async def test_so_many_at_a_time_and_no_more(store: Store) -> None:
    limits = Limits(concurrency=1)
    row = await claim(store, held(1), limits)
    assert await refused(store, held(2), limits) is RATE_LIMITED
    await settle(store, row, Bill())
    await claim(store, held(2), limits)


async def test_a_next_attempt_is_no_new_request_and_reserves_nothing_more(store: Store) -> None:
    limits = Limits(requests_per_minute=1, concurrency=1, tokens_per_month=WORST)
    await claim(store, held(), limits)
    row = await claim(store, held(attempt=1, cause="CALL_LOST"), limits)
    account = await books(store)
    assert (row.attempt, account.reserved_tokens, account.running) == (2, WORST, 1)


async def test_an_attempt_that_came_to_nothing_gives_everything_back(store: Store) -> None:
    limits = Limits(concurrency=1, tokens_per_month=WORST)
    row = await claim(store, held(1), limits)
    await store.withdraw(row.job, 1, "CAPACITY", now=101.0)
    assert (await books(store)).reserved_tokens == (await books(store)).running == 0
    await claim(store, held(1, attempt=1), limits)
    assert (await books(store)).reserved_tokens == WORST


async def test_a_bill_that_may_still_grow_keeps_its_reservation_for_a_lease(store: Store) -> None:
    limits = Limits(tokens_per_month=WORST, concurrency=1)
    row = await claim(store, held(), limits)
    await settle(store, row, Bill(5, 7, {1: 7}, whole=False))
    account = await books(store)
    assert (account.settled_tokens, account.reserved_tokens, account.running) == (12, WORST - 12, 0)
    await settle(store, row, Bill(5, 20, {1: 20}, whole=False), now=115.0)
    assert (await books(store)).settled_tokens == 25
    await store.sweep(now=110.0 + LEASE_S)
    account = await books(store)
    assert (account.settled_tokens, account.reserved_tokens) == (25, 0)
    await settle(store, row, Bill(5, 30, {1: 30}), now=110.0 + LEASE_S)
    assert ((await books(store)).settled_tokens, (await kept(store, row)).tokens) == (25, 20)


async def test_what_nobody_ends_is_given_back_by_the_sweep(store: Store) -> None:
    await claim(store, held(), Limits(tokens_per_month=WORST, concurrency=1))
    assert len(await store.sweep(now=200.0)) == 1
    assert (await books(store)).running == 0
    await store.sweep(now=200.0 + LEASE_S)
    assert (await books(store)).reserved_tokens == 0


async def test_a_tenant_and_its_key_are_both_asked(store: Store) -> None:
    key = "key:k1"
    hold = Hold((ACME, key), WORST)
    terms = [Terms(ACME, Limits(tokens_per_month=10 * WORST)), Terms(key, Limits(concurrency=1))]

    async def ask(number: int) -> JobRecord:
        return await store.claim(job(number, hold=hold), attempt(), now=100.0, terms=terms)

    await ask(1)
    with pytest.raises(TetherError) as refusal:
        await ask(2)
    assert refusal.value.code is RATE_LIMITED
    assert [account.reserved_tokens for account in await store.accounts([key, ACME])] == [WORST, WORST]


async def test_callers_at_once_are_let_in_exactly_as_far_as_the_quota_goes(store: Store) -> None:
    limits, served = Limits(tokens_per_month=7 * WORST), list[int]()

    async def ask(number: int) -> None:
        try:
            await claim(store, held(number), limits)
        except TetherError as refusal:
            assert refusal.code is QUOTA_EXCEEDED
        else:
            served.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(1, 41):
            nursery.start_soon(ask, number)
    assert len(served) == 7
    assert (await books(store)).reserved_tokens == 7 * WORST


# ── Usage ────────────────────────────────────────────────────────────────────────────────────────────────────────


def receipt(*, countersigned: bool = True, position: int = 7) -> bytes:
    worker, gateway = NodeKey(b"w" * 32), NodeKey(b"g" * 32)
    said = encode(Receipt(b"j" * 32, 1, b"g1", worker.node_id, 5, 0, position, "stop", b""))
    second = gateway.sign("receipt", said) if countersigned else b""
    return encode(SignedReceipt(said, worker.sign("receipt", said), second))


async def test_a_job_becomes_one_usage_row_once_its_bill_is_final(store: Store) -> None:
    row = await claim(store, held(key_id="k1"), Limits(budget=1_000))
    await settle(store, row, Bill(5, 7, {1: 7}, (receipt(),)))
    await store.sweep(now=112.0)
    assert await store.usage_rows(0.0, 1e9) == []
    for now in (130.0, 200.0, 300.0):
        await store.sweep(now=now)
    (usage,) = await store.usage_rows(0.0, 1e9)
    assert (usage.tenant, usage.key_id, usage.model, usage.state) == ("acme", "k1", "demo", "done")
    assert (usage.prompt_tokens, usage.tokens, usage.micros, usage.disputed) == (5, 7, 12, False)
    assert usage.receipts == (receipt(),)


async def test_what_a_worker_says_alone_is_disputed_until_its_gateway_agrees(store: Store) -> None:
    for number in (1, 2):
        row = await store.claim(job(number), attempt(), now=100.0)
        await settle(store, row, Bill(5, 7, {1: 7}, (receipt(countersigned=False),)))
    await settle(store, row, Bill(5, 7, {1: 7}, (receipt(),)), now=111.0)
    await store.sweep(now=130.0)
    assert [usage.disputed for usage in await store.usage_rows(0.0, 1e9)] == [True, False]
    assert len((await kept(store, row)).receipts) == 1


async def test_usage_is_read_in_pages_by_the_time_of_its_end(store: Store) -> None:
    for number in range(1, 6):
        row = await store.claim(job(number), attempt(), now=100.0)
        await settle(store, row, Bill(), now=110.0 if number < 4 else 120.0)
    await store.sweep(now=200.0)
    first = await store.usage_rows(0.0, 200.0, limit=2)
    rest = await store.usage_rows(first[-1].ended, 200.0, after=first[-1].job)
    assert [row.job[0] for row in (*first, *rest)] == [1, 2, 3, 4, 5]
    assert [row.job[0] for row in await store.usage_rows(110.0, 120.0)] == [1, 2, 3]


async def test_a_copy_of_a_row_changes_no_books(store: Store) -> None:
    row = await claim(store, held(), Limits(tokens_per_month=WORST))
    before = await books(store)
    copy = replace(row, state="done", ended=105.0, prompt_tokens=5, tokens=7, held_until=None)
    if isinstance(store, SqlStore):
        await store.take([copy])
        assert await books(store) == before
    assert {one.worker for one in row.attempts} <= {ONE, TWO}
