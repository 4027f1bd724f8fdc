"""A worker's promises: one attempt a job, one use a grant, no more than there is room for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inference.slots import HELD_S, MAX_REMEMBERED, Slots
from p2p.errors import ATTEMPT_STALE, CAPACITY, DRAINING, GRANT_INVALID, MODEL_NOT_FOUND, Code, TetherError
from p2p.identity import PeerId
from p2p.messages import Grant, ReserveRequest

NOW = 1_000.0


def job(number: int = 1) -> bytes:
    return number.to_bytes(32, "big")


def asks(grant_id: bytes = b"g", *, of: int = 1, attempt: int = 1, digest: str = "m") -> ReserveRequest:
    return ReserveRequest(job(of), attempt, grant_id, digest, 100, NOW + HELD_S)


def grant(
    grant_id: bytes = b"g",
    *,
    of: int = 1,
    attempt: int = 1,
    digest: str = "m",
    not_after: float = NOW + HELD_S,
) -> Grant:
    gateway, worker = PeerId("gateway"), PeerId("worker")
    return Grant(job(of), attempt, grant_id, "t", gateway, worker, 1, digest, b"", 100, 100, not_after)


def refused(call: Callable[[], object]) -> Code:
    with pytest.raises(TetherError) as error:
        call()
    return error.value.code


def test_a_reservation_is_claimed_once() -> None:
    slots = Slots({"m": 1})
    slots.reserve(asks(), NOW)
    slots.claim(grant(), NOW + 1)
    assert (slots.load(NOW + 2), slots.running) == (1, 1)
    slots.finish(b"g")
    assert slots.load(NOW + 2) == 0
    assert refused(lambda: slots.claim(grant(), NOW + 2)) is GRANT_INVALID
    assert refused(lambda: slots.reserve(asks(), NOW + 2)) is GRANT_INVALID
    assert refused(lambda: slots.claim(grant(), NOW + 1000)) is GRANT_INVALID


def test_what_runs_runs_as_long_as_it_takes() -> None:
    slots = Slots({"m": 1})
    slots.claim(grant(), NOW)
    assert slots.load(NOW + 100_000) == 1


def test_asking_twice_for_the_same_reservation_takes_one_slot() -> None:
    slots = Slots({"m": 2})
    slots.reserve(asks(), NOW)
    slots.reserve(asks(), NOW + 1)
    assert slots.load(NOW + 1) == 1


def test_a_reservation_that_nobody_claims_ends_by_this_workers_clock() -> None:
    slots = Slots({"m": 1})
    slots.reserve(asks(), NOW)
    assert refused(lambda: slots.reserve(asks(b"h", of=2), NOW + HELD_S)) is CAPACITY
    slots.reserve(asks(b"h", of=2), NOW + HELD_S + 0.1)


def test_a_held_reservation_outweighs_the_orchestrators_slow_clock() -> None:
    slots = Slots({"m": 1})
    slots.reserve(asks(), NOW)
    slots.claim(grant(not_after=NOW - 60), NOW + 1)


def test_without_a_reservation_a_grant_has_to_be_fresh_and_find_room() -> None:
    slots = Slots({"m": 1})
    assert refused(lambda: slots.claim(grant(not_after=NOW - 1), NOW)) is GRANT_INVALID
    slots.claim(grant(), NOW)
    assert refused(lambda: slots.claim(grant(b"h", of=2), NOW)) is CAPACITY


def test_a_released_slot_is_free_but_a_running_one_stays() -> None:
    slots = Slots({"m": 1})
    slots.reserve(asks(), NOW)
    slots.release(job(2), b"g")
    assert slots.load(NOW) == 1
    slots.release(job(1), b"g")
    assert slots.load(NOW) == 0
    slots.claim(grant(), NOW)
    slots.release(job(1), b"g")
    assert slots.running == 1


def test_a_lower_attempt_is_refused_even_after_the_higher_one_is_over() -> None:
    slots = Slots({"m": 4})
    slots.claim(grant(b"g2", attempt=2), NOW)
    slots.finish(b"g2")
    assert refused(lambda: slots.reserve(asks(b"g1", attempt=1), NOW)) is ATTEMPT_STALE
    assert refused(lambda: slots.claim(grant(b"g1", attempt=1), NOW)) is ATTEMPT_STALE


def test_a_higher_attempt_supersedes_what_is_here_and_takes_its_room() -> None:
    slots = Slots({"m": 1})
    slots.claim(grant(b"g1", attempt=1), NOW)
    assert slots.reserve(asks(b"g2", attempt=2), NOW) == (b"g1",)
    assert slots.claim(grant(b"g3", attempt=3), NOW) == ()
    assert refused(lambda: slots.claim(grant(b"g2", attempt=2), NOW)) is ATTEMPT_STALE


def test_a_refused_attempt_does_not_count_as_seen() -> None:
    slots = Slots({"m": 1})
    slots.claim(grant(b"other", of=2), NOW)
    assert refused(lambda: slots.reserve(asks(b"g5", attempt=5), NOW)) is CAPACITY
    slots.finish(b"other")
    slots.reserve(asks(b"g4", attempt=4), NOW)


def test_two_grants_of_one_attempt_may_both_be_held_as_two_leaders_may_have_given_them() -> None:
    slots = Slots({"m": 2})
    slots.reserve(asks(b"a"), NOW)
    slots.reserve(asks(b"b"), NOW)
    assert slots.load(NOW) == 2


def test_models_do_not_share_slots_and_an_unknown_one_is_not_found() -> None:
    slots = Slots({"m": 1, "n": 1})
    slots.reserve(asks(), NOW)
    slots.reserve(asks(b"h", of=2, digest="n"), NOW)
    assert refused(lambda: slots.reserve(asks(b"i", of=3, digest="x"), NOW)) is MODEL_NOT_FOUND
    assert slots.capacity == 2


def test_a_grant_has_to_be_for_what_was_reserved() -> None:
    slots = Slots({"m": 1, "n": 1})
    slots.reserve(asks(), NOW)
    assert refused(lambda: slots.claim(grant(digest="n"), NOW)) is GRANT_INVALID


def test_who_drains_keeps_its_promises_and_makes_no_new_ones() -> None:
    slots = Slots({"m": 3})
    slots.reserve(asks(), NOW)
    slots.draining = True
    assert refused(lambda: slots.reserve(asks(b"h", of=2), NOW)) is DRAINING
    assert refused(lambda: slots.claim(grant(b"h", of=2), NOW)) is DRAINING
    slots.claim(grant(), NOW)


def test_memory_is_bounded_and_the_oldest_job_is_forgotten_first() -> None:
    slots = Slots({"m": 1})
    slots.claim(grant(b"first", of=1, attempt=2), NOW)
    slots.finish(b"first")
    for number in range(2, MAX_REMEMBERED + 2):
        slots.claim(grant(number.to_bytes(4, "big"), of=number), NOW)
        slots.finish(number.to_bytes(4, "big"))
    slots.claim(grant(b"again", of=1, attempt=1), NOW)


class Lending(RuleBasedStateMachine):
    """Orchestrators and gateways in any order, on a clock that only goes forward."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots({"m": 2})
        self.now = NOW
        self.highest: dict[int, int] = {}
        self.spent: set[bytes] = set()
        self.running: set[bytes] = set()

    @rule(of=st.integers(1, 3), attempt=st.integers(1, 4), claim=st.booleans())
    def ask(self, of: int, attempt: int, claim: bool) -> None:
        grant_id = b"%d/%d" % (of, attempt)
        try:
            if claim:
                wanted = grant(grant_id, of=of, attempt=attempt, not_after=self.now + 1)
                superseded = self.slots.claim(wanted, self.now)
            else:
                superseded = self.slots.reserve(asks(grant_id, of=of, attempt=attempt), self.now)
        except TetherError:
            return
        assert attempt >= self.highest.get(of, 0)
        assert grant_id not in self.spent
        self.highest[of] = attempt
        self.running -= set(superseded)
        if claim:
            self.spent.add(grant_id)
            self.running.add(grant_id)

    @rule(of=st.integers(1, 3), attempt=st.integers(1, 4))
    def end(self, of: int, attempt: int) -> None:
        grant_id = b"%d/%d" % (of, attempt)
        if grant_id in self.running:
            self.slots.finish(grant_id)
            self.running.discard(grant_id)
        else:
            self.slots.release(job(of), grant_id)

    @rule(passed=st.floats(0, 0.9))
    def wait(self, passed: float) -> None:
        self.now += passed

    @invariant()
    def never_more_than_there_is_room_for(self) -> None:
        assert self.slots.running == len(self.running) <= self.slots.load(self.now) <= 2


TestLending = Lending.TestCase
