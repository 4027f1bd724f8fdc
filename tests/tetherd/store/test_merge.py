"""Copies of a row, joined in any order, from ledgers that went their own ways."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import FRAME_INVALID, TetherError
from p2p.messages import JobEnd
from tests.tetherd.store.rows import HERE, ONE, TWO, attempt, job
from tetherd.store import jobs
from tetherd.store.merge import merged, pack, unpack
from tetherd.store.protocol import Bill, JobRecord


@st.composite
def histories(draw: st.DrawFn) -> list[JobRecord]:
    """All rows that one ledger may have sent of a job: it claims, withdraws, renews, settles and sweeps at random."""
    row = jobs.claim(None, job(), attempt(), 100.0)
    seen, now = [row], 100.0
    ends: list[JobEnd] = ["done", "failed", "cancelled"]
    for _ in range(draw(st.integers(0, 6))):
        now += draw(st.sampled_from([0.5, 4.0, 20.0]))
        match draw(st.sampled_from(["claim", "withdraw", "renew", "settle", "sweep"])):
            case "claim" if row.state == "running":
                again = job(attempt=row.attempt, cause="CALL_LOST", gateway=HERE, lease_until=now + 15.0)
                row = jobs.claim(row, again, attempt(draw(st.sampled_from([ONE, TWO])), b"g2"), now)
            case "withdraw":
                row = jobs.withdraw(row, row.attempt, "CAPACITY", now) or row
            case "renew":
                row = jobs.renew(row, row.attempt, row.attempts[-1].grant_id, now + 15.0) or row
            case "settle":
                tokens = draw(st.integers(0, 9))
                bill = Bill(5, tokens, {row.attempt: tokens})
                row, _ = jobs.settle(row, row.attempt, draw(st.sampled_from(ends)), bill, None, "", now)
            case "sweep" if jobs.overdue(row, now):
                row = jobs.swept(row, now)
        seen.append(row)
    return seen


@given(histories(), histories())
def test_ledgers_that_heard_the_same_rows_agree_whatever_the_order(
    one: list[JobRecord], other: list[JobRecord]
) -> None:
    rows = [*one[-2:], *other[-2:]]
    joined = {reduce(merged, order) for order in permutations(rows)}
    assert len(joined) == 1
    (row,) = joined
    assert merged(row, row) == row
    assert all(merged(row, earlier) == row for earlier in rows)


@given(histories())
def test_the_last_row_of_one_history_is_the_join_of_all(history: list[JobRecord]) -> None:
    assert reduce(merged, history) == history[-1]


@given(histories(), histories())
def test_what_ended_stays_ended_attempts_only_rise_and_no_token_is_forgotten(
    one: list[JobRecord], other: list[JobRecord]
) -> None:
    joined = merged(one[-1], other[-1])
    ended = [row for row in (one[-1], other[-1]) if row.state != "running"]
    assert (joined.state != "running") == bool(ended)
    assert joined.tokens == max(one[-1].tokens, other[-1].tokens)
    if not ended:
        assert joined.attempt == max(one[-1].attempt, other[-1].attempt)


def test_an_end_that_receipts_prove_comes_before_one_that_a_sweeper_made() -> None:
    row = jobs.claim(None, job(), attempt(), 100.0)
    done, _ = jobs.settle(row, 1, "done", Bill(5, 7, {1: 7}), None, "", 110.0)
    swept = jobs.swept(row, 200.0)
    assert merged(swept, done).state == merged(done, swept).state == "done"


@given(histories())
def test_a_row_crosses_the_wire_as_it_is(history: list[JobRecord]) -> None:
    assert unpack(pack(history[-1])) == history[-1]


@given(st.binary(max_size=300))
def test_bytes_of_a_stranger_are_a_row_or_an_error(data: bytes) -> None:
    try:
        unpack(data)
    except TetherError as error:
        assert error.code is FRAME_INVALID


@pytest.mark.parametrize(
    "changes",
    [
        {"job": b"short"},
        {"retry_token": "x" * 513},
        {"cause": "x" * 201},
        {"tokens": -1},
        {"ended": 5.0},
        {"state": "done"},
        {"attempts": (attempt(),) * 17},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_row_out_of_bounds_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TetherError) as caught:
        unpack(pack(replace(job(), **changes)))  # type: ignore[arg-type]
    assert caught.value.code is FRAME_INVALID
