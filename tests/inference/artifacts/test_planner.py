"""The planner: rarest first, nothing asked twice without need, liars never again."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.artifacts.planner import ENDGAME_COPIES, FIRST_PAUSE_S, PIPELINE, Planner


def planner(count: int, done: Sequence[int] = (), seed: int = 1) -> Planner:
    return Planner(count, done, random.Random(seed).random)


def take(plan: Planner, name: str, now: float = 0.0) -> list[int]:
    """All that this source is asked for, each delivered at once."""
    taken = []
    while (index := plan.next(name, now)) is not None:
        taken.append(index)
        plan.arrived(name, index, now)
    return taken


def test_the_rarest_chunk_goes_first() -> None:
    plan = planner(4)
    plan.join("origin", whole=True)
    for peer, has in (("a", [0, 1, 2]), ("b", [0, 1]), ("c", [0])):
        plan.join(peer, whole=False)
        plan.has(peer, has)
    assert take(plan, "origin") == [3, 2, 1, 0]


def test_what_a_peer_has_asked_for_is_less_rare_already() -> None:
    plan = planner(4)
    plan.join("origin", whole=True)
    plan.join("peer", whole=False)
    plan.coming("peer", [0, 1, 99])
    plan.has("peer", [0])
    assert set(take(plan, "origin")[:2]) == {2, 3}
    plan.leave("peer")
    assert not plan._copies.any()


def test_nodes_that_begin_together_ask_the_origin_for_different_chunks() -> None:
    firsts = set()
    for seed in range(8):
        plan = planner(1_000, seed=seed)
        plan.join("origin", whole=True)
        firsts.add(plan.next("origin", 0.0))
    assert len(firsts) >= 7


def test_a_source_is_asked_further_ahead_the_sooner_it_delivers() -> None:
    plan = planner(20)
    for name, takes_s, ahead in (("quick", 0.001, PIPELINE), ("slow", 10.0, 1)):
        plan.join(name, whole=True)
        first = plan.next(name, 0.0)
        assert first is not None and plan.next(name, 0.0) is None
        plan.arrived(name, first, takes_s)
        assert sum(plan.next(name, takes_s) is not None for _ in range(9)) == ahead


def test_a_chunk_is_asked_of_one_source_until_that_one_is_late() -> None:
    plan = planner(3)
    for name in "abc":
        plan.join(name, whole=True)
    slow = plan.next("a", 0.0)
    quick = plan.next("b", 0.0)
    assert slow is not None and quick is not None and slow != quick
    plan.arrived("b", quick, 1.0)
    assert take(plan, "b", 1.0) == [({0, 1, 2} - {slow, quick}).pop()]
    assert plan.next("b", 1.0) is None
    assert plan.next("b", 10.0) == slow
    assert plan.next("c", 10.0) is None and ENDGAME_COPIES == 2
    assert plan.asked() == {slow}


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
    plan = planner(2)
    for name in "ab":
        plan.join(name, whole=True)
    mine, other = plan.next("a", 0.0), plan.next("b", 0.0)
    assert mine is not None and other is not None
    assert plan.arrived("b", other, 1.0)
    assert plan.next("b", 9.0) == mine
    assert plan.arrived("b", mine, 10.0) and not plan.arrived("a", mine, 11.0)
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
                    plan.arrived(*one, now)
            case "lie" if name in there and name != "honest":
                plan.ban(name)
                banned.add(name)
                under_way = [one for one in under_way if one[0] != name]
    for name, index in under_way:
        plan.failed(name, index, now)
    now += 1_000.0
    take(plan, "honest", now)
    assert plan.complete and plan.left == 0
