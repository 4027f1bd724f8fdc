"""What a job costs in rows: the same, however long its answer and however many its attempts."""

from __future__ import annotations

from pathlib import Path

from tests.tetherd.store.rows import TWO, attempt, job
from tetherd.quotas.hold import Hold
from tetherd.quotas.limits import Limits
from tetherd.store import SqliteDatabase, SqlStore
from tetherd.store.database import Script, Statement
from tetherd.store.protocol import Bill, Terms

SUBJECT = "tenant:acme"


def _rows() -> Script[int]:
    """Of all tables together."""
    tables = yield Statement("SELECT name FROM sqlite_master WHERE type = 'table'")
    total = 0
    for (name,) in tables:
        ((count,),) = yield Statement(f"SELECT count(*) FROM {name}")
        total += count
    return total


async def _cost(store: SqlStore, number: int, *, attempts: int, tokens: int) -> int:
    """The rows that a job adds from its claim until long after its bill is final."""
    before, began = await store.database.each(_rows), 10_000.0 * number
    row = job(number, tenant="acme", created=began, hold=Hold((SUBJECT,), 96, 96, 1_000_000, 1_000_000))
    terms = [Terms(SUBJECT, Limits(requests_per_minute=100))]
    for _ in range(attempts):
        row = await store.claim(row, attempt(TWO), now=began, terms=terms)
        assert await store.renew(row.job, row.attempt, b"g1", lease_until=began + 30.0)
    bill = Bill(5, tokens, {row.attempt: tokens})
    assert await store.settle(
        row.job, row.attempt, "done", bill, first_token=began + 1.0, cause="", now=began + 10.0
    )
    await store.sweep(now=began + 1_000.0)
    assert len(await store.usage_rows(0.0, 1e9)) == number
    return await store.database.each(_rows) - before


async def test_a_job_is_one_row_and_one_of_usage_whatever_its_attempts_and_tokens(tmp_path: Path) -> None:
    store = SqlStore(SqliteDatabase(tmp_path / "ledger.db"))
    try:
        first = await _cost(store, 1, attempts=1, tokens=1)
        assert first == 2 + 1, "and once for all jobs its tenant's account"
        assert await _cost(store, 2, attempts=1, tokens=30) == 2
        assert await _cost(store, 3, attempts=9, tokens=30) == 2
    finally:
        await store.close()
