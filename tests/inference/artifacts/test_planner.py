"""The planner: rarest first, nothing asked twice without need, liars never again."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.artifacts.planner import ENDGAME_COPIES, FIRST_PAUSE_S, Planner


def planner(count: int, done: Sequence[int] = (), seed: int = 1) -> Planner:
    return Planner(count, done, random.Random(seed).random)


def take(plan: Planner, name: str, now: float = 0.0) -> list[int]:
    taken = []
    while (index := plan.next(name, now)) is not None:
        taken.append(index)
    return taken


def test_the_rarest_chunk_goes_first() -> None:
    plan = planner(4)
    plan.join("origin", whole=True)
    for peer, has in (("a", [0, 1, 2]), ("b", [0, 1]), ("c", [0])):
        plan.join(peer, whole=False)
        plan.has(peer, has)
    assert [plan.next("origin", 0.0) for _ in range(4)] == [3, 2, 1, 0]


def test_nodes_that_begin_together_ask_the_origin_for_different_chunks() -> None:
    firsts = set()
    for seed in range(8):
        plan = planner(1_000, seed=seed)
        plan.join("origin", whole=True)
        firsts.add(plan.next("origin", 0.0))
    assert len(firsts) >= 7


def test_a_chunk_is_asked_of_one_source_until_nothing_else_is_left() -> None:
    plan = planner(3)
    plan.join("a", whole=True)
    plan.join("b", whole=True)
    first, second = plan.next("a", 0.0), plan.next("b", 0.0)
    third = plan.next("a", 0.0)
    assert {first, second, third} == {0, 1, 2}
    assert set(take(plan, "b")) == {first, third}
    assert take(plan, "a") == [second]
    plan.join("c", whole=True)
    assert take(plan, "c") == [] and ENDGAME_COPIES == 2


def test_what_is_there_already_is_not_asked_for() -> None:
    plan = planner(4, done=[0, 2])
    plan.join("a", whole=True)
    assert sorted(take(plan, "a")) == [1, 3]


def test_one_that_fails_rests_longer_each_time_and_another_takes_over() -> None:
    plan = planner(1)
    plan.join("a", whole=True)
    plan.join("b", whole=True)
    assert plan.next("a", 0.0) == 0
    plan.failed("a", 0, 0.0)
    assert plan.next("a", FIRST_PAUSE_S / 2) is None
    assert plan.next("b", 0.0) == 0
    plan.failed("b", 0, 0.0)
    assert plan.next("a", FIRST_PAUSE_S) == 0
    plan.failed("a", 0, FIRST_PAUSE_S)
    assert plan.rests_for("a", FIRST_PAUSE_S) == 2 * FIRST_PAUSE_S


def test_a_liar_is_asked_for_nothing_more_even_when_it_comes_back() -> None:
    plan = planner(2)
    plan.join("liar", whole=False)
    plan.has("liar", [0, 1])
    assert plan.next("liar", 0.0) is not None
    plan.ban("liar")
    plan.leave("liar")
    plan.join("liar", whole=False)
    plan.has("liar", [0, 1])
    assert plan.next("liar", 99.0) is None
    assert plan.sources == frozenset()


def test_the_slower_of_two_copies_is_no_news() -> None:
    plan = planner(1)
    for name in "ab":
        plan.join(name, whole=True)
        assert plan.next(name, 0.0) == 0
    assert plan.arrived("b", 0) and not plan.arrived("a", 0)
    assert plan.complete


@pytest.mark.parametrize("index", [-1, 4, 10**9])
def test_a_peer_cannot_have_what_there_is_not(index: int) -> None:
    plan = planner(4)
    plan.join("a", whole=False)
    plan.has("a", [index])
    assert take(plan, "a") == []


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**32))
def test_however_sources_come_fail_and_lie_an_honest_one_completes_it(
    count: int, sources: int, seed: int
) -> None:
    rng = random.Random(seed)
    plan = Planner(count, [], rng.random)
    names = [f"s{number}" for number in range(sources)]
    plan.join("honest", whole=True)
    under_way: list[tuple[str, int]] = []
    now, there, banned = 0.0, {"honest"}, set[str]()
    for _ in range(400):
        now += rng.random()
        name = rng.choice([*names, "honest"])
        match rng.choice(["join", "has", "leave", "ask", "ask", "end", "end", "lie"]):
            case "join" if name not in there:
                plan.join(name, whole=False)
                there.add(name)
            case "has" if name in there and name != "honest":
                plan.has(name, rng.sample(range(count), rng.randint(0, count)))
            case "leave" if name in there and name != "honest":
                plan.leave(name)
                there.discard(name)
                under_way = [one for one in under_way if one[0] != name]
            case "ask" if name in there:
                index = plan.next(name, now)
                assert index is None or name not in banned
                if index is not None:
                    assert (name, index) not in under_way
                    assert sum(one[1] == index for one in under_way) < ENDGAME_COPIES
                    under_way.append((name, index))
            case "end" if under_way:
                one = under_way.pop(rng.randrange(len(under_way)))
                if rng.random() < 0.3:
                    plan.failed(*one, now)
                else:
                    plan.arrived(*one)
            case "lie" if name in there and name != "honest":
                plan.ban(name)
                banned.add(name)
                under_way = [one for one in under_way if one[0] != name]
    for name, index in under_way:
        plan.failed(name, index, now)
    now += 1_000.0
    for index in take(plan, "honest", now):
        plan.arrived("honest", index)
    assert plan.complete and plan.left == 0
