"""The breaker's table, walked."""

from __future__ import annotations

import pytest

from p2p.errors import CATALOGUE
from p2p.identity import PeerId
from tetherd.orchestrator.breaker import (
    FAULTS,
    LIMIT,
    MAX_BREAKERS,
    MAX_PAUSE_S,
    PAUSE_S,
    PROBE_S,
    Breaker,
    Breakers,
)

ONE, TWO = PeerId("one"), PeerId("two")


def opened() -> Breaker:
    """Opened at second 0."""
    breaker = Breaker()
    for _ in range(LIMIT):
        breaker = breaker.failed(0.0)
    return breaker


HALF_OPEN, PROBING = opened(), opened().started(PAUSE_S)


@pytest.mark.parametrize(
    ("breaker", "now_s", "state", "allows"),
    [
        (Breaker(), 0.0, "closed", True),
        (Breaker().failed(0.0).failed(0.0), 0.0, "closed", True),
        (opened(), 0.0, "open", False),
        (opened(), PAUSE_S - 0.1, "open", False),
        (HALF_OPEN, PAUSE_S, "half-open", True),
        (PROBING, PAUSE_S, "half-open", False),
        (PROBING, PAUSE_S + PROBE_S, "half-open", True),
        (PROBING.aborted(), PAUSE_S, "half-open", True),
        (PROBING.failed(PAUSE_S), PAUSE_S, "open", False),
        (PROBING.failed(PAUSE_S), 3 * PAUSE_S - 0.1, "open", False),
        (PROBING.failed(PAUSE_S), 3 * PAUSE_S, "half-open", True),
        (opened().failed(PAUSE_S / 2), PAUSE_S, "half-open", True),
        (Breaker().started(0.0), 0.0, "closed", True),
    ],
)
def test_each_line_of_the_table(breaker: Breaker, now_s: float, state: str, allows: bool) -> None:
    assert (breaker.state(now_s), breaker.allows(now_s)) == (state, allows)


def test_each_failed_probe_doubles_the_pause_up_to_a_minute() -> None:
    breaker, now_s, pauses = opened(), 0.0, []
    for _ in range(8):
        now_s += breaker.pause_s
        breaker = breaker.started(now_s).failed(now_s)
        pauses.append(breaker.pause_s)
    assert pauses[:3] == [2 * PAUSE_S, 4 * PAUSE_S, 8 * PAUSE_S]
    assert pauses[-1] == MAX_PAUSE_S


def test_workers_and_their_models_are_kept_apart() -> None:
    breakers = Breakers()
    for _ in range(LIMIT):
        breakers.failed(ONE, "demo", 0.0)
    assert not breakers.allows(ONE, "demo", 0.0)
    assert breakers.allows(ONE, "other", 0.0)
    assert breakers.allows(TWO, "demo", 0.0)


def test_a_success_forgets_the_failures() -> None:
    breakers = Breakers()
    for _ in range(LIMIT - 1):
        breakers.failed(ONE, "demo", 0.0)
    breakers.succeeded(ONE, "demo")
    breakers.failed(ONE, "demo", 0.0)
    assert breakers.allows(ONE, "demo", 0.0)


def test_half_open_lets_one_job_through_at_a_time() -> None:
    breakers = Breakers()
    for _ in range(LIMIT):
        breakers.failed(ONE, "demo", 0.0)
    breakers.started(ONE, "demo", PAUSE_S)
    assert not breakers.allows(ONE, "demo", PAUSE_S)
    breakers.aborted(ONE, "demo")
    assert breakers.allows(ONE, "demo", PAUSE_S)


def test_what_is_remembered_is_bounded() -> None:
    breakers = Breakers()
    for number in range(MAX_BREAKERS + 10):
        for _ in range(LIMIT):
            breakers.failed(PeerId(f"worker-{number}"), "demo", 0.0)
    assert breakers.allows(PeerId("worker-9"), "demo", 0.0)
    assert not breakers.allows(PeerId("worker-10"), "demo", 0.0)


def test_a_worker_is_not_blamed_for_being_full_draining_or_right() -> None:
    assert CATALOGUE.keys() >= FAULTS
    assert not FAULTS & {
        "CAPACITY",
        "DRAINING",
        "CONTEXT_EXCEEDED",
        "CANCELLED",
        "ATTEMPT_STALE",
        "GRANT_INVALID",
    }
