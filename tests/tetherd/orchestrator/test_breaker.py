"""The breaker's table, walked."""

from __future__ import annotations

from p2p.identity import PeerId
from tetherd.orchestrator.breaker import LIMIT, MAX_PAUSE_S, PAUSE_S, Breaker, Breakers
from tetherd.orchestrator.reservations import TOLD_S, Reservations


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(LIMIT):
        breaker = breaker.failed(now_s)
    return breaker


def test_it_opens_after_failures_in_a_row_and_a_success_forgets_them() -> None:
    assert opened().state(0.0) == "open"
    assert not opened().allows(PAUSE_S - 0.1)
    assert Breaker().failed(0.0).failed(0.0).succeeded().failed(0.0).state(0.0) == "closed"


def test_half_open_lets_one_job_through_at_a_time() -> None:
    breaker = opened()
    assert breaker.state(PAUSE_S) == "half-open"
    assert breaker.allows(PAUSE_S)
    assert not breaker.started(PAUSE_S).allows(PAUSE_S)


def test_a_failed_probe_doubles_the_pause_up_to_a_minute_and_a_good_one_closes_it() -> None:
    breaker, now_s = opened(), 0.0
    pauses = []
    for _ in range(8):
        now_s += breaker.pause_s
        breaker = breaker.started(now_s).failed(now_s)
        pauses.append(breaker.pause_s)
    assert pauses[:3] == [2 * PAUSE_S, 4 * PAUSE_S, 8 * PAUSE_S]
    assert pauses[-1] == MAX_PAUSE_S
    assert breaker.succeeded().allows(now_s)


def test_workers_are_kept_apart() -> None:
    breakers, one, two = Breakers(), PeerId("one"), PeerId("two")
    for _ in range(LIMIT):
        breakers.failed(one, 0.0)
    assert (breakers.allows(one, 0.0), breakers.allows(two, 0.0)) == (False, True)
    breakers.succeeded(one)
    assert breakers.allows(one, 0.0)


def test_a_promised_slot_counts_until_it_is_given_back_or_reported() -> None:
    slots, worker = Reservations(), PeerId("worker")
    slots.promise(worker, b"1", 0.0)
    slots.promise(worker, b"2", 0.5)
    assert slots.held(0.5) == {worker: 2}
    slots.release(b"1")
    assert slots.held(0.6) == {worker: 1}
    assert slots.held(0.5 + TOLD_S) == {}
