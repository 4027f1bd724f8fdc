"""Who may begin with what a slot holds, and which slot is given away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.prefix_cache import BORDER, LEAST_COPIED, Found, PrefixCache, Wanted

TENANT = b"tenant"
LONG = tuple(range(10 * BORDER))


def held(cache: PrefixCache, slot: int, tokens: tuple[int, ...], *, exact: bool = True) -> None:
    """Let an answer be made in a slot, and leave it."""
    cache.take(slot, Wanted(tokens, TENANT, exact), 0)
    cache.fill(slot, len(tokens))
    cache.leave(slot)


def test_a_beginning_that_is_held_is_found_up_to_a_border_before_the_last_token() -> None:
    cache = PrefixCache(2)
    held(cache, 1, LONG)
    assert cache.find(Wanted(LONG, TENANT, True), 0) == Found(1, 9 * BORDER)
    assert cache.find(Wanted((*LONG, 1), TENANT, True), 0) == Found(1, 10 * BORDER)
    assert cache.find(Wanted((*LONG[: 5 * BORDER + 7], 0, 0), TENANT, True), 0) == Found(1, 5 * BORDER)


@pytest.mark.parametrize("scope", [b"another", b""])
def test_nothing_is_found_across_scopes(scope: bytes) -> None:
    cache = PrefixCache(1)
    cache.take(0, Wanted(LONG, scope, True), 0)
    cache.fill(0, len(LONG))
    assert cache.find(Wanted(LONG, TENANT, True), 0).length == 0
    cache.take(0, Wanted(LONG, TENANT, True), 0)
    cache.fill(0, len(LONG))
    assert cache.find(Wanted(LONG, scope, True), 0).length == 0


def test_what_was_computed_fast_serves_no_exact_request_but_the_other_way_round() -> None:
    cache = PrefixCache(1)
    held(cache, 0, LONG, exact=False)
    assert cache.find(Wanted(LONG, TENANT, True), 0).length == 0
    held(cache, 0, LONG, exact=True)
    assert cache.find(Wanted(LONG, TENANT, False), 0).length == 9 * BORDER


def test_only_what_is_in_the_slot_counts_however_many_tokens_are_known() -> None:
    cache = PrefixCache(2)
    cache.take(1, Wanted(LONG, TENANT, True), 0)
    cache.fill(1, 3 * BORDER + 5)
    assert cache.find(Wanted(LONG, TENANT, True), 0) == Found(1, 3 * BORDER)


def test_a_conversation_goes_on_in_its_own_slot() -> None:
    cache = PrefixCache(3)
    held(cache, 2, LONG)
    assert cache.choose(Wanted((*LONG, 1, 2, 3), TENANT, True), (0, 1, 2)) == 2


def test_a_short_beginning_in_common_does_not_cost_a_long_conversation_its_slot() -> None:
    cache = PrefixCache(2)
    held(cache, 0, LONG)
    wanted = Wanted((*LONG[: 2 * BORDER], 0, 0), TENANT, True)
    assert cache.choose(wanted, (0, 1)) == 1
    assert cache.find(wanted, 1) == Found(0, 2 * BORDER)


def test_a_stranger_gets_the_slot_that_was_used_longest_ago() -> None:
    cache = PrefixCache(3)
    for slot in (1, 0, 2):
        held(cache, slot, (slot,) * 100)
    assert cache.choose(Wanted((9,) * 100, TENANT, True), (0, 1, 2)) == 1


def test_beside_a_slot_in_use_comes_before_long_ago() -> None:
    cache = PrefixCache(4)
    assert cache.choose(Wanted(LONG, TENANT, True), (0, 1, 3)) == 1


def test_a_beginning_that_another_answer_computes_is_awaited_until_it_is_in_its_slot() -> None:
    cache = PrefixCache(2)
    wanted = Wanted(LONG, TENANT, True)
    cache.take(1, wanted, 0)
    assert cache.awaited(wanted, 0)
    assert not cache.awaited(Wanted(LONG, b"another", True), 0)
    assert not cache.awaited(Wanted(LONG, b"", True), 0)
    assert not cache.awaited(Wanted(LONG[: LEAST_COPIED - 1], TENANT, True), 0)
    cache.fill(1, 8 * BORDER)
    assert cache.awaited(wanted, 0)
    cache.fill(1, 9 * BORDER)
    assert not cache.awaited(wanted, 0)


def test_what_a_left_answer_would_have_computed_is_not_waited_for() -> None:
    cache = PrefixCache(2)
    cache.take(1, Wanted(LONG, TENANT, True), 0)
    cache.leave(1)
    assert not cache.awaited(Wanted(LONG, TENANT, True), 0)


def test_an_exact_request_does_not_wait_for_what_is_computed_fast() -> None:
    cache = PrefixCache(2)
    cache.take(1, Wanted(LONG, TENANT, False), 0)
    assert not cache.awaited(Wanted(LONG, TENANT, True), 0)
    assert cache.awaited(Wanted(LONG, TENANT, False), 0)


@given(st.data())
def test_a_hit_is_always_a_real_beginning(data: st.DataObject) -> None:
    tokens = st.lists(st.integers(0, 1), max_size=4 * BORDER).map(tuple)
    cache = PrefixCache(2)
    kept = [data.draw(tokens), data.draw(tokens)]
    for slot in (0, 1):
        held(cache, slot, kept[slot])
    wanted = data.draw(st.one_of(tokens, st.sampled_from(kept).map(lambda one: (*one, 2))))
    found = cache.find(Wanted(wanted, TENANT, True), data.draw(st.integers(0, 1)))
    assert found.length % BORDER == 0 and (found.length < len(wanted) or not wanted)
    assert kept[found.source][: found.length] == wanted[: found.length]
