"""Who gets a job: filters by table, the choice by properties."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.identity import PeerId
from p2p.messages import ServedModel
from tetherd.orchestrator.matcher import Match, NoMatch, WorkerState, load, match, weight

DEMO = ServedModel("demo", "1", "aa", 512)


def worker(
    name: str, *, free: int = 1, closed: bool = True, models: tuple[ServedModel, ...] = (DEMO,)
) -> WorkerState:
    return WorkerState(PeerId(name), models, 4, free, closed)


@pytest.mark.parametrize(
    ("workers", "exclude", "reason"),
    [
        ([], (), "unknown"),
        ([worker("a", models=(ServedModel("other", "1", "bb", 512),))], (), "unknown"),
        ([worker("a", free=0)], (), "busy"),
        ([worker("a", free=-1)], (), "busy"),
        ([worker("a", closed=False)], (), "broken"),
        ([worker("a")], ("a",), "broken"),
        ([worker("a"), worker("b", free=0)], ("a",), "busy"),
    ],
)
def test_without_a_worker_the_reason_is_told(
    workers: list[WorkerState], exclude: tuple[PeerId, ...], reason: str
) -> None:
    found = match(b"job", "demo", "", workers, exclude)
    assert isinstance(found, NoMatch)
    assert found.reason == reason


def test_an_unknown_model_lists_those_there_are() -> None:
    assert match(b"job", "gpt", "", [worker("a")]) == NoMatch("unknown", ("demo",))


def test_a_version_is_honoured_and_without_one_the_newest_serves() -> None:
    newer = ServedModel("demo", "2", "cc", 512)
    workers = [worker("old"), worker("new", models=(newer,))]
    for version, wanted in (("", newer), ("2", newer), ("1", DEMO)):
        found = match(b"job", "demo", version, workers)
        assert isinstance(found, Match)
        assert [served for _, served in found.choices] == [wanted]


WORKERS = st.lists(st.integers(0, 4), min_size=1, max_size=12).map(
    lambda free: [worker(f"worker-{index}", free=slots) for index, slots in enumerate(free)]
)


@given(WORKERS, st.binary(min_size=32, max_size=32), st.randoms(use_true_random=False))
def test_two_leaders_with_the_same_view_choose_the_same_worker(
    workers: list[WorkerState], job: bytes, shuffle: random.Random
) -> None:
    other = list(workers)
    shuffle.shuffle(other)
    assert match(job, "demo", "", workers) == match(job, "demo", "", other)


@given(WORKERS, st.binary(min_size=32, max_size=32))
def test_the_choice_has_room_and_is_the_less_loaded_of_the_jobs_first_two(
    workers: list[WorkerState], job: bytes
) -> None:
    found = match(job, "demo", "", workers)
    roomy = sorted((one for one in workers if one.free > 0), key=lambda one: weight(job, one.peer))
    if isinstance(found, NoMatch):
        assert not roomy
        return
    chosen = found.choices[0][0]
    assert chosen in roomy[:2]
    assert load(chosen) == min(load(one) for one in roomy[:2])
    assert {one.peer for one, _ in found.choices} == {one.peer for one in roomy}


def test_jobs_spread_over_the_workers() -> None:
    workers = [worker(f"worker-{index}") for index in range(5)]
    chosen = [match(bytes([n]) * 32, "demo", "", workers).choices[0][0].peer for n in range(200)]  # type: ignore[union-attr]
    assert all(chosen.count(one.peer) > 15 for one in workers)
