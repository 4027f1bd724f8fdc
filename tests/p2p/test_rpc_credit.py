"""The pool of one peer's credit, and the heap of deadlines: bounds that hold in any order of events."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from p2p.errors import CAPACITY, FLOW_VIOLATION, TetherError
from p2p.rpc import RpcLimits
from p2p.rpc.credit import Pool, Window
from p2p.rpc.deadlines import SLACK, Deadlines
from p2p.rpc.frames import MESSAGE_WEIGHT

LIMITS = RpcLimits(
    message_bytes=10_000,
    peer_credit_bytes=30_000,
    outbound_calls=10,
    floor_bytes=500,
    widest_bytes=(1_000, 4_000, 8_000),
)


@dataclass
class Call:
    """One that answers as much as it may. credit: told by the window; unread: weights of whole messages."""

    window: Window = field(init=False)
    credit: int = 0
    unread: list[int] = field(default_factory=list)

    def more(self, amount: int) -> None:
        self.credit += amount


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("open", "answer", "read", "want", "close")),
        st.integers(0, 9),
        st.integers(64, 9_000),
    ),
    max_size=120,
)


@given(EVENTS, st.integers(0, 2))
def test_whatever_readers_do_a_peer_holds_no_more_than_its_credit_and_every_call_has_its_floor(
    events: list[tuple[str, int, int]], priority: int
) -> None:
    pool = Pool(LIMITS)
    calls: list[Call] = []
    for what, which, size in events:
        if what == "open" and pool.calls < LIMITS.outbound_calls:
            call = Call()
            call.window = pool.open(priority, call.more)
            call.credit += call.window.size
            assert call.window.size >= LIMITS.floor_bytes
            calls.append(call)
        if not calls:
            continue
        call = calls[which % len(calls)]
        if what == "answer" and size <= call.credit:
            call.window.arrive(size)
            call.credit -= size
            call.unread.append(size)
        elif what == "read" and call.unread:
            call.window.consume(call.unread.pop(0))
        elif what == "want" and not call.unread:
            call.window.want(size)
        elif what == "close":
            calls.remove(call)
            call.window.close()
        assert 0 <= pool.held <= LIMITS.peer_credit_bytes
        assert pool.held == sum(call.credit + sum(call.unread) for call in calls)
        assert pool.spare >= 0
    for call in calls:
        call.window.close()
    assert (pool.calls, pool.held, pool.spare) == (0, 0, Pool(LIMITS).spare)


def test_more_calls_than_there_are_floors_are_refused() -> None:
    pool = Pool(LIMITS)
    for _ in range(LIMITS.outbound_calls):
        pool.open(1, lambda amount: None)
    with pytest.raises(TetherError) as caught:
        pool.open(1, lambda amount: None)
    assert caught.value.code is CAPACITY


def test_bytes_beyond_a_window_are_a_violation() -> None:
    window = Pool(LIMITS).open(0, lambda amount: None)
    window.arrive(window.size)
    with pytest.raises(TetherError) as caught:
        window.arrive(1)
    assert caught.value.code is FLOW_VIOLATION


def test_long_messages_are_lent_their_room_one_after_the_other() -> None:
    pool = Pool(LIMITS)
    lent: list[tuple[str, int]] = []
    first = pool.open(0, lambda amount: lent.append(("first", amount)))
    second = pool.open(0, lambda amount: lent.append(("second", amount)))
    first.want(9_000)
    second.want(9_000)
    assert [name for name, _ in lent] == ["first"]
    first.arrive(9_000 + MESSAGE_WEIGHT)
    first.consume(9_000 + MESSAGE_WEIGHT)
    assert ("second", 9_000 + MESSAGE_WEIGHT - second.size) in lent


async def test_deadlines_pass_in_their_order_and_what_was_removed_does_not(autojump_clock: MockClock) -> None:
    deadlines = Deadlines()
    passed: list[tuple[int, float]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        await trio.sleep(1)
        start = trio.current_time()
        tickets = [
            deadlines.add(start + n, lambda n=n: passed.append((n, trio.current_time() - start)))  # type: ignore[misc]
            for n in (5, 2, 3, 1)
        ]
        deadlines.remove(tickets[2])
        await trio.sleep(10)
        assert passed == [(n, pytest.approx(n)) for n in (1, 2, 5)]
        nursery.cancel_scope.cancel()


def test_deadlines_of_calls_that_ended_do_not_pile_up() -> None:
    deadlines = Deadlines()
    for n in range(10 * SLACK):
        deadlines.remove(deadlines.add(float(n), lambda: None))
    assert len(deadlines._heap) <= 2 * SLACK
