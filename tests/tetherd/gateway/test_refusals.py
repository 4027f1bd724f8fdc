"""A gateway repeats a refusal until the time that it named, and asks again afterwards."""

from __future__ import annotations

import pytest

from p2p.errors import CAPACITY, RATE_LIMITED, TetherError
from tetherd.gateway.refusals import AT_MOST_S, KEPT, Refusals

ACME = ("acme", "key")


def limited(retry_after_s: float | None) -> TetherError:
    return TetherError(RATE_LIMITED, "Slowly.", retry_after_s=retry_after_s)


def test_who_was_told_to_wait_is_told_so_again_until_then() -> None:
    refusals = Refusals()
    refusals.note(ACME, 100, limited(2.0), now=10.0)
    with pytest.raises(TetherError) as refused:
        refusals.check(ACME, 100, now=11.5)
    assert refused.value.retry_after_s == pytest.approx(0.5)
    refusals.check(ACME, 99, now=11.5)
    refusals.check(("acme", "other"), 100, now=11.5)
    refusals.check(ACME, 100, now=12.0)


def test_a_long_wait_is_asked_about_again_for_limits_may_be_raised() -> None:
    refusals = Refusals()
    refusals.note(ACME, 1, limited(50.0), now=0.0)
    refusals.check(ACME, 1, now=AT_MOST_S)


def test_what_says_no_time_or_is_about_the_swarm_is_not_repeated() -> None:
    refusals = Refusals()
    refusals.note(ACME, 1, limited(None), now=0.0)
    refusals.note(ACME, 1, TetherError(CAPACITY, "Busy.", retry_after_s=3.0), now=0.0)
    refusals.check(ACME, 1, now=0.1)


def test_it_remembers_a_bounded_number() -> None:
    refusals = Refusals()
    for number in range(KEPT + 1):
        refusals.note(("t", str(number)), 1, limited(3.0), now=0.0)
    refusals.check(("t", "0"), 1, now=0.1)
    with pytest.raises(TetherError):
        refusals.check(("t", "1"), 1, now=0.1)
