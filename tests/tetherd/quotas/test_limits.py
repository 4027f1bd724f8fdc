"""Limits and money as operators say them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import CONFIG_INVALID, FIELD_INVALID, OUT_OF_RANGE, TetherError
from tetherd.quotas.limits import Limits, Price, check_limits, read_price
from tetherd.quotas.money import amount, micros


@given(st.integers(0, 10**15 - 1))
def test_what_is_written_is_what_is_read(value: int) -> None:
    assert micros(amount(value), "budget") == value


@pytest.mark.parametrize("text", ["", "-1", "1,5", "1.1234567", "1e3", "NaN", "1" * 20])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(TetherError) as refused:
        micros(text, "budget")
    assert (refused.value.code, refused.value.field) == (FIELD_INVALID, "budget")


def test_a_started_micro_unit_is_counted_whole() -> None:
    price = Price(prompt=150_000, output=600_000)
    assert price.cost(1, 0) == 1
    assert price.cost(1_000_000, 1_000_000) == 750_000
    assert Price().cost(10**9, 10**9) == 0


def test_what_is_not_said_is_the_default() -> None:
    said, defaults = Limits(concurrency=2), Limits(concurrency=9, requests_per_minute=60)
    assert said.over(defaults) == Limits(concurrency=2, requests_per_minute=60)


def test_monthly_limits_ask_for_a_shared_ledger() -> None:
    check_limits(Limits(tokens_per_minute=5, concurrency=1), shared=False)
    check_limits(Limits(budget=5, tokens_per_month=1), shared=True)
    with pytest.raises(TetherError, match="postgresql://") as refused:
        check_limits(Limits(budget=5), shared=False)
    assert refused.value.code is CONFIG_INVALID
    with pytest.raises(TetherError) as refused:
        check_limits(Limits(concurrency=-1), shared=True)
    assert refused.value.code is OUT_OF_RANGE


def test_a_price_is_for_a_million_tokens_of_prompt_and_of_answer() -> None:
    assert read_price("org/model=v2=0.15/0.60") == ("org/model=v2", Price(150_000, 600_000))
    for wrong in ("model", "model=1", "=1/2", "model=1/x"):
        with pytest.raises(TetherError) as refused:
            read_price(wrong)
        assert refused.value.code is CONFIG_INVALID
