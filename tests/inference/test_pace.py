"""The owner's limit, on a clock of our own."""

from __future__ import annotations

import pytest

from inference.pace import Pace


@pytest.mark.parametrize("rate", [0.5, 20.0, 1000.0])
def test_over_a_while_exactly_the_rate_is_allowed(rate: float) -> None:
    pace, sampled, now = Pace(rate, 0.0), 0, 0.0
    while now <= 100 / rate:
        allowed = pace.allowance(now)
        pace.spend(allowed)
        sampled += allowed
        now += 0.1 / rate
    assert sampled in (100, 101)


def test_a_slow_limit_paces_evenly_even_after_a_pause() -> None:
    pace = Pace(20.0, 0.0)
    assert pace.allowance(60.0) == 1
    pace.spend(1)
    assert pace.allowance(60.01) == 0
    assert pace.wait_s() == pytest.approx(0.015)


def test_without_a_limit_nobody_waits() -> None:
    pace = Pace(None, 0.0)
    pace.spend(1_000_000)
    assert pace.allowance(0.0) > 1_000_000
    assert pace.wait_s() == 0.0
