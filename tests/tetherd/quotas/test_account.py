"""An account is the sum of its jobs, and never over its quota, whatever they do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import RATE_LIMITED, TetherError
from tetherd.quotas.account import Account, admit, month_of, rates, tightest
from tetherd.quotas.hold import NOTHING, Hold, Standing, standing
from tetherd.quotas.limits import Limits

LIMITS = Limits(requests_per_minute=60, tokens_per_minute=600)


def test_a_full_minute_may_be_used_at_once_and_leaks_evenly() -> None:
    account = Account("tenant:acme").at(LIMITS, 1000.0)
    for _ in range(60):
        account = admit(account, LIMITS, NOTHING, Standing(reserved_tokens=10), first=True)
    told = rates(account, LIMITS)
    assert (told.remaining_requests, told.remaining_tokens) == (0, 0)
    assert (told.reset_requests_s, told.reset_tokens_s) == (60.0, 60.0)
    with pytest.raises(TetherError) as refused:
        admit(account, LIMITS, NOTHING, Standing(reserved_tokens=1), first=True)
    assert (refused.value.code, refused.value.retry_after_s) == (RATE_LIMITED, 1.0)
    later = account.at(LIMITS, 1030.0)
    assert rates(later, LIMITS).remaining_requests == 30


def test_what_was_not_used_of_the_worst_case_is_there_again() -> None:
    account = admit(Account("tenant:acme"), LIMITS, NOTHING, Standing(reserved_tokens=600), first=True)
    account = account.posted(Standing(reserved_tokens=600), Standing(settled_tokens=20))
    assert rates(account, LIMITS).remaining_tokens == 580


def test_the_tighter_of_two_accounts_is_what_a_client_is_told() -> None:
    tenant = rates(Account("tenant:acme", requests=50.0), LIMITS)
    key = rates(Account("key:k", tokens=5.0), Limits(tokens_per_minute=10))
    told = tightest([tenant, key])
    assert told is not None
    assert (told.limit_requests, told.remaining_requests, told.limit_tokens, told.remaining_tokens) == (
        60,
        10,
        10,
        5,
    )
    assert tightest([]) is None


def test_a_month_is_a_calendar_month_in_utc() -> None:
    assert (month_of(1_793_491_199.0), month_of(1_793_491_200.0)) == (202610, 202611)


@given(
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 2_000_000),
    st.integers(0, 2_000_000),
    st.booleans(),
)
def test_what_is_billed_never_exceeds_what_was_reserved(
    prompt: int, tokens: int, prompt_price: int, output_price: int, held: bool
) -> None:
    hold = Hold(("tenant:a",), 100, 120, prompt_price, output_price)
    now = standing(hold, prompt, tokens, held=held, running=True)
    assert now.settled_tokens + now.reserved_tokens <= hold.tokens
    assert now.settled_micros + now.reserved_micros <= hold.micros
    assert held or now.reserved_tokens == now.running == 0
