"""What receipts add up to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.identity import PeerId
from p2p.messages import Receipt
from tetherd.orchestrator.bill import bill
from tetherd.store.protocol import AttemptRecord, Bill

WORKER = PeerId("12D3worker")


def receipt(attempt: int, first: int, position: int, prompt: int = 5) -> Receipt:
    return Receipt(b"j" * 32, attempt, b"g" * 16, WORKER, prompt, first, position, "stop", b"")


def tried(*numbers: int) -> list[AttemptRecord]:
    return [AttemptRecord(number, b"g" * 16, WORKER, "eu", 0.0) for number in numbers]


@pytest.mark.parametrize(
    ("receipts", "attempts", "expected"),
    [
        ([], tried(1), Bill(0, 0, {})),
        ([receipt(1, 0, 9)], tried(1), Bill(5, 9, {1: 9})),
        ([receipt(2, 4, 9)], tried(1, 2), Bill(5, 9, {1: 4, 2: 5})),
        ([receipt(3, 4, 9)], tried(1, 2, 3), Bill(5, 9, {2: 4, 3: 5})),
        ([receipt(1, 0, 4), receipt(2, 4, 9)], tried(1, 2), Bill(5, 9, {1: 4, 2: 5})),
        ([receipt(1, 0, 9), receipt(2, 4, 6)], tried(1, 2), Bill(5, 9, {1: 9, 2: 0})),
        ([receipt(1, 0, 3, prompt=7), receipt(2, 3, 4, prompt=5)], tried(1, 2), Bill(7, 4, {1: 3, 2: 1})),
        ([receipt(2, 3, 9)], (), Bill(5, 9, {2: 6})),
    ],
)
def test_the_prompt_counts_once_and_the_answer_to_its_highest_proven_position(
    receipts: list[Receipt], attempts: list[AttemptRecord], expected: Bill
) -> None:
    assert bill(receipts, attempts) == expected


SPANS = st.tuples(st.integers(1, 6), st.integers(0, 30), st.integers(0, 30), st.integers(0, 9))


@given(st.lists(SPANS, max_size=6))
def test_a_bill_is_what_was_proven_and_the_attempts_share_no_more_than_that(
    spans: list[tuple[int, int, int, int]],
) -> None:
    receipts = [receipt(n, min(a, b), max(a, b), prompt) for n, a, b, prompt in spans]
    total = bill(receipts, tried(*range(1, 7)))
    assert total.tokens == max((one.position for one in receipts), default=0)
    assert total.prompt_tokens == max((one.prompt_tokens for one in receipts), default=0)
    assert all(tokens >= 0 for tokens in total.by_attempt.values())
    assert sum(total.by_attempt.values()) <= total.tokens
