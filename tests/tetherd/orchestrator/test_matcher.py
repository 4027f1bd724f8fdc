"""Who gets a job: filters by table, the choice by properties."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.identity import PeerId
from p2p.messages import ServedModel
from tetherd.orchestrator.matcher import (
    Match,
    NoMatch,
    Wish,
    WorkerState,
    affinity,
    load,
    match,
    rank,
    usual_speed,
)

DEMO = ServedModel("demo", "1", "aa", 512)
TWIN = ServedModel("demo", "1", "bb", 512)
NEWER = ServedModel("demo", "2", "cc", 512)
OTHER = ServedModel("other", "1", "dd", 512)
WISH = Wish(b"job", "demo")


def worker(
    name: str, *models: ServedModel, free: int = 1, broken: tuple[str, ...] = (), full: tuple[str, ...] = ()
) -> WorkerState:
    return WorkerState(PeerId(name), models or (DEMO,), 4, free, frozenset(broken), frozenset(full))


def excluding(*names: str) -> Wish:
    return Wish(b"job", "demo", exclude=frozenset(map(PeerId, names)))


def chosen(wish: Wish, *workers: WorkerState) -> tuple[str, str]:
    found = match(wish, workers)
    assert isinstance(found, Match)
    state, served = found.choices[0]
    return state.peer, served.digest


@pytest.mark.parametrize(
    ("wish", "workers", "reason"),
    [
        (WISH, [], "unserved"),
        (WISH, [worker("a", OTHER)], "unserved"),
        (Wish(b"job", "demo", version="9"), [worker("a")], "unserved"),
        (Wish(b"job", "demo", digest="zz"), [worker("a")], "unserved"),
        (excluding("a"), [worker("a")], "excluded"),
        (WISH, [worker("a", broken=("demo",))], "broken"),
        (excluding("b"), [worker("a", broken=("demo",)), worker("b")], "broken"),
        (WISH, [worker("a", free=0)], "busy"),
        (WISH, [worker("a", free=-1)], "busy"),
        (WISH, [worker("a", full=("aa",))], "busy"),
        (excluding("a"), [worker("a"), worker("b", free=0)], "busy"),
        (WISH, [worker("a", broken=("demo",)), worker("b", free=0)], "busy"),
    ],
)
def test_without_a_worker_the_reason_is_told(wish: Wish, workers: list[WorkerState], reason: str) -> None:
    assert match(wish, workers) == NoMatch(reason)  # type: ignore[arg-type]


def test_a_breaker_or_a_refusal_of_one_model_leaves_the_others_alone() -> None:
    both = worker("a", DEMO, OTHER, broken=("other",), full=("dd",))
    assert chosen(WISH, both) == ("a", "aa")


def test_a_version_is_honoured_and_without_one_the_newest_with_room_serves() -> None:
    workers = worker("old"), worker("new", NEWER)
    assert chosen(WISH, *workers) == ("new", "cc")
    assert chosen(Wish(b"job", "demo", version="1"), *workers) == ("old", "aa")
    assert chosen(WISH, worker("old"), worker("new", NEWER, free=0)) == ("old", "aa")


def test_an_answer_goes_on_with_the_file_it_was_begun_with() -> None:
    for digest, name in (("aa", "one"), ("bb", "two")):
        wish = Wish(b"job", "demo", version="1", digest=digest)
        assert chosen(wish, worker("one"), worker("two", TWIN), worker("both", TWIN, DEMO, free=0))[0] == name


STATES = st.lists(st.integers(0, 4), min_size=1, max_size=12).map(
    lambda free: [worker(f"worker-{index}", free=slots) for index, slots in enumerate(free)]
)
JOBS = st.binary(min_size=32, max_size=32)


@given(STATES, JOBS, st.randoms(use_true_random=False))
def test_two_leaders_with_the_same_view_choose_the_same_worker(
    workers: list[WorkerState], job: bytes, shuffle: random.Random
) -> None:
    other = list(workers)
    shuffle.shuffle(other)
    assert match(Wish(job, "demo"), workers) == match(Wish(job, "demo"), other)


@given(STATES, JOBS)
def test_the_choice_has_room_and_is_the_less_loaded_of_the_jobs_first_two(
    workers: list[WorkerState], job: bytes
) -> None:
    found = match(Wish(job, "demo"), workers)
    roomy = sorted((one for one in workers if one.free > 0), key=lambda one: rank(job, one.peer, 1.0))
    if isinstance(found, NoMatch):
        assert not roomy
        return
    best = found.choices[0][0]
    assert best in roomy[:2]
    assert load(best) == min(load(one) for one in roomy[:2])
    assert {one.peer for one, _ in found.choices} == {one.peer for one in roomy}


@given(STATES, JOBS, st.sets(st.integers(0, 11)))
def test_a_worker_that_failed_a_job_never_gets_it_again(
    workers: list[WorkerState], job: bytes, failed: set[int]
) -> None:
    wish = Wish(job, "demo", exclude=frozenset(PeerId(f"worker-{index}") for index in failed))
    found = match(wish, workers)
    if isinstance(found, Match):
        assert not {state.peer for state, _ in found.choices} & wish.exclude
    else:
        assert all(one.free <= 0 or one.peer in wish.exclude for one in workers)


@given(STATES, JOBS, st.integers(0, 11))
def test_a_worker_that_goes_takes_only_the_jobs_with_it_that_it_was_first_or_second_for(
    workers: list[WorkerState], job: bytes, index: int
) -> None:
    before = match(Wish(job, "demo"), workers)
    after = match(Wish(job, "demo"), [one for one in workers if one.peer != f"worker-{index}"])
    if isinstance(before, Match) and f"worker-{index}" not in {one.peer for one, _ in before.choices[:2]}:
        assert isinstance(after, Match)
        assert after.choices[0] == before.choices[0]


def test_jobs_spread_over_the_workers() -> None:
    workers = [worker(f"worker-{index}") for index in range(5)]
    counts = Counter(chosen(Wish(bytes([number]) * 32, "demo"), *workers)[0] for number in range(200))
    assert all(counts[one.peer] > 15 for one in workers)


EXACT = ServedModel("demo", "1", "aa", 512, exact=True)
BEGINNINGS = (b"1" * 8, b"2" * 8, b"3" * 8)


def holding(name: str, *digests: bytes, model: ServedModel = DEMO, free: int = 4) -> WorkerState:
    return replace(worker(name, model, free=free), prefixes=frozenset(digests))


@given(st.binary(max_size=8))
def test_whoever_has_computed_the_longest_beginning_comes_first(job: bytes) -> None:
    workers = [holding("none"), holding("some", BEGINNINGS[0]), holding("most", BEGINNINGS[2]), holding("no")]
    wish = Wish(job, "demo", prefixes=BEGINNINGS)
    assert chosen(wish, *workers) == ("most", "aa")
    assert chosen(replace(wish, exclude=frozenset({PeerId("most")})), *workers) == ("some", "aa")


def test_a_worker_that_is_nearly_full_is_no_better_for_what_it_has_computed() -> None:
    wish = Wish(b"job", "demo", prefixes=BEGINNINGS)
    alone = holding("holder", BEGINNINGS[0], free=1)
    assert chosen(wish, alone)[0] == "holder"
    assert affinity(wish, alone) == 1
    busy = replace(alone, capacity=8)
    assert affinity(wish, busy) == 0


@given(st.binary(max_size=8))
def test_a_seed_goes_to_an_exact_worker_before_a_warm_one_and_to_any_if_there_is_none(job: bytes) -> None:
    wish = Wish(job, "demo", exact=True, prefixes=BEGINNINGS)
    warm, exact = holding("warm", BEGINNINGS[2]), holding("exact", model=EXACT)
    assert chosen(wish, warm, exact)[0] == "exact"
    assert chosen(replace(wish, exact=False), warm, exact)[0] == "warm"
    assert chosen(wish, warm, replace(exact, free=0))[0] == "warm"


def test_a_model_in_memory_comes_before_one_that_has_to_be_loaded_while_there_is_room() -> None:
    cold = ServedModel("demo", "1", "aa", 512, loaded=False)
    workers = worker("cold", cold), worker("warm")
    for number in range(20):
        assert chosen(Wish(bytes([number]), "demo"), *workers)[0] == "warm"
    assert chosen(WISH, worker("cold", cold), worker("warm", free=0))[0] == "cold"


def test_jobs_spread_in_proportion_to_speed_and_who_is_not_measured_counts_as_usual() -> None:
    def fast(name: str, speed: float) -> WorkerState:
        return worker(name, ServedModel("demo", "1", "aa", 512, tokens_per_second=speed))

    def counted(*workers: WorkerState) -> Counter[str]:
        wishes = (Wish(number.to_bytes(2, "big"), "demo") for number in range(2_000))
        return Counter(min(workers, key=lambda one: _rank(wish, one, workers)).peer for wish in wishes)

    def _rank(wish: Wish, one: WorkerState, workers: tuple[WorkerState, ...]) -> tuple[float, bytes]:
        usual = usual_speed(state.models[0] for state in workers)
        return rank(wish.job, one.peer, one.models[0].tokens_per_second or usual)

    found = counted(fast("slow", 10.0), fast("fast", 30.0))
    assert found["fast"] / found["slow"] == pytest.approx(3.0, rel=0.15)
    found = counted(fast("a", 30.0), fast("b", 30.0), fast("unknown", 0.0))
    assert found["unknown"] / found["a"] == pytest.approx(1.0, rel=0.15)
