"""Turns between tenants, and who gets a place when all are taken."""

from __future__ import annotations

from collections import Counter
from itertools import count
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tetherd.orchestrator.fair_queue import FairQueue


def queue(limit: int, *waiting: tuple[str, int]) -> FairQueue[int]:
    made: FairQueue[int] = FairQueue(limit)
    for tenant, waiter in waiting:
        assert made.join(tenant, waiter) is None
    return made


def test_everybodys_first_comes_before_anybodys_second() -> None:
    made = queue(9, ("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("c", 6))
    assert list(made.in_order()) == [1, 4, 5, 2, 6, 3]


def test_whoever_was_served_goes_behind_the_others() -> None:
    made = queue(9, ("a", 1), ("a", 2), ("b", 3), ("b", 4))
    made.served("a", 1)
    assert list(made.in_order()) == [3, 2, 4]


def test_a_full_queue_makes_room_for_a_tenant_that_has_less() -> None:
    made = queue(3, ("a", 1), ("a", 2), ("a", 3))
    assert made.join("b", 4) == 3
    assert made.join("b", 5) == 5
    assert made.join("a", 6) == 6
    assert made.join("c", 7) == 2
    assert list(made.in_order()) == [1, 4, 7]


def test_leaving_twice_is_no_harm() -> None:
    made = queue(3, ("a", 1))
    made.leave("a", 1)
    made.leave("a", 1)
    made.leave("b", 1)
    assert not made


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["join", "leave", "served"])), max_size=60))
def test_no_more_wait_than_there_are_places_and_nobody_twice(steps: list[tuple[str, str]]) -> None:
    made: FairQueue[int] = FairQueue(5)
    inside: dict[int, str] = {}
    for number, (tenant, step) in enumerate(steps):
        mine = [waiter for waiter, owner in inside.items() if owner == tenant]
        if step == "join":
            inside[number] = tenant
            loser = made.join(tenant, number)
            if loser is not None:
                del inside[loser]
        elif mine:
            (made.leave if step == "leave" else made.served)(tenant, mine[0])
            del inside[mine[0]]
        order = list(made.in_order())
        assert sorted(order) == sorted(inside)
        assert len(order) == len(made) <= 5


WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 8), min_size=2)


@settings(max_examples=30, deadline=None)
@given(WEIGHTS, st.randoms(use_true_random=False))
def test_no_tenant_starves_and_each_has_its_share(weights: dict[str, int], random: Random) -> None:
    """All wait all the time, with requests of any size: shares of tokens are those of the weights."""
    made: FairQueue[int] = FairQueue(1_000)
    numbers, owners, sizes = count(), dict[int, str](), dict[int, int]()
    got: Counter[str] = Counter()

    def join(tenant: str) -> None:
        number = next(numbers)
        owners[number], sizes[number] = tenant, random.randint(1, 500)
        assert made.join(tenant, number, tokens=sizes[number], weight=weights[tenant]) is None

    for tenant in weights:
        join(tenant)
        join(tenant)
    for _ in range(100 * sum(weights.values())):
        due = next(made.in_order())
        got[owners[due]] += sizes[due]
        made.served(owners[due], due)
        join(owners[due])
    for tenant, weight in weights.items():
        share = got[tenant] / sum(got.values())
        fair = weight / sum(weights.values())
        assert abs(share - fair) <= 0.03 * fair + 500 / sum(got.values()) * 2


@given(st.integers(1, 200), st.integers(1, 8))
def test_a_tenant_that_was_away_is_next_but_has_saved_up_nothing(rounds: int, weight: int) -> None:
    made: FairQueue[int] = FairQueue(1_000)
    for number in range(rounds):
        made.join("busy", number, tokens=100)
    for number in range(rounds - 1):
        made.served("busy", number)
    made.join("busy", -1, tokens=100)
    for number in range(5):
        made.join("back", 1_000 + number, tokens=100, weight=weight)
    order = list(made.in_order())
    assert order.index(1_000) <= 1
    assert order.index(rounds - 1) <= weight + 1


def test_a_heavy_tenant_may_have_more_places_before_it_makes_room() -> None:
    made: FairQueue[int] = FairQueue(4)
    for number in range(4):
        made.join("heavy", number, weight=4)
    assert made.join("light", 9, weight=1) == 9
    assert made.join("other", 8, weight=4) == 3
