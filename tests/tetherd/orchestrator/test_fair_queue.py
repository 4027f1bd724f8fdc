"""Turns between tenants, and who gets a place when all are taken."""

from __future__ import annotations

from hypothesis import given
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
