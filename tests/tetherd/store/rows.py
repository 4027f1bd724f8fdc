"""Rows for the tests of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from p2p.identity import PeerId
from p2p.messages import JobEnd
from tetherd.store.protocol import AttemptRecord, Bill, JobRecord, Store

HERE, THERE = PeerId("12D3here"), PeerId("12D3there")
ONE, TWO = PeerId("12D3one"), PeerId("12D3two")


def job(number: int = 1, **changes: Any) -> JobRecord:
    """What a gateway here wants at second 100, with a lease to 115 and a deadline at 160."""
    fresh = JobRecord(
        job=bytes([number]) * 32,
        tenant="local",
        retry_token=f"token-{number}",
        model="demo",
        digest="d" * 64,
        gateway=HERE,
        request_mac=b"m" * 32,
        max_prompt_tokens=64,
        max_tokens=32,
        state="running",
        attempt=0,
        owner=PeerId("12D3owner"),
        created=100.0 + number,
        lease_until=115.0,
        deadline=160.0,
    )
    return replace(fresh, **changes)


def attempt(worker: PeerId = ONE, grant: bytes = b"g1", start: float = 100.0) -> AttemptRecord:
    return AttemptRecord(0, grant, worker, "eu", start)


async def settle(
    store: Store,
    row: JobRecord,
    end: JobEnd = "done",
    *,
    tokens: int = 7,
    by_attempt: Mapping[int, int] | None = None,
    first_token: float | None = 101.0,
    now: float = 110.0,
) -> bool:
    shares = {row.attempt: tokens} if by_attempt is None else by_attempt
    bill = Bill(5, tokens, shares)
    return await store.settle(row.job, row.attempt, end, bill, first_token=first_token, cause="", now=now)


async def kept(store: Store, row: JobRecord) -> JobRecord:
    found = await store.get(row.job)
    assert found is not None
    return found
