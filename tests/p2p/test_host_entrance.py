"""Taking connections: at a bounded pace, closed at once where nobody is let in, and on when descriptors run out."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import cast

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from p2p.host.entrance import ACCEPTS_PER_S, BURST, FULL_S, Entrance, Turns
from p2p.host.raw import Pipe
from p2p.host.scores import NETWORK_LIMIT
from tests.p2p.hosts import address, open_nodes, until
from tests.swarms import make_swarm


class Arrival:
    """As much of a stream as an entrance needs."""

    closed = False

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


class Queue(trio.abc.Listener[trio.SocketStream]):
    """A listening socket with so many connections in its backlog."""

    def __init__(self, arrivals: Iterable[Arrival | OSError]) -> None:
        self._arrivals = iter(arrivals)

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        arrival = next(self._arrivals, None)
        if arrival is None:
            await trio.sleep_forever()
        if isinstance(arrival, OSError):
            raise arrival
        return cast(trio.SocketStream, arrival)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Hall:
    """Who came through, and when."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.open = True

    def lets_in(self, _: Pipe) -> bool:
        return self.open

    async def carry(self, _: Pipe) -> None:
        self.times.append(trio.current_time())
        await trio.lowlevel.checkpoint()


@contextmanager
def for_s(seconds: float) -> Iterator[None]:
    with trio.move_on_after(seconds):
        yield


async def test_a_flood_comes_in_at_a_pace_after_its_first_burst(autojump_clock: MockClock) -> None:
    hall = Hall()
    with for_s(2.0):
        await Entrance(hall.lets_in, hall.carry).serve(Queue(Arrival() for _ in range(10_000)))
    began = hall.times[0]
    assert len([at for at in hall.times if at == began]) <= BURST + 1
    assert len(hall.times) == pytest.approx(BURST + 2.0 * ACCEPTS_PER_S, abs=3)


async def test_who_is_not_let_in_is_closed_without_a_task(autojump_clock: MockClock) -> None:
    hall, arrivals = Hall(), [Arrival() for _ in range(50)]
    hall.open = False
    with for_s(1.0):
        await Entrance(hall.lets_in, hall.carry).serve(Queue(arrivals))
    assert hall.times == [] and all(arrival.closed for arrival in arrivals)


async def test_without_a_descriptor_it_waits_and_goes_on(autojump_clock: MockClock) -> None:
    hall, full = Hall(), OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    began = trio.current_time()
    with for_s(5.0):
        await Entrance(hall.lets_in, hall.carry).serve(Queue([full, full, Arrival()]))
    assert hall.times == [began + 2 * FULL_S]
    with pytest.raises(ExceptionGroup):
        await Entrance(hall.lets_in, hall.carry).serve(Queue([OSError(errno.EBADF, "broken")]))


@given(st.lists(st.floats(0, 0.1), max_size=300), st.integers(1, 20))
def test_turns_are_in_order_never_early_and_no_more_than_the_pace(pauses: list[float], burst: int) -> None:
    turns, now, taken = Turns(100.0, burst), 0.0, list[float]()
    for pause in pauses:
        now += pause
        at = turns.next_s(now)
        assert at >= now
        taken.append(at)
    assert taken == sorted(taken)
    for first in range(0, len(taken), 7):
        window = [at for at in taken[first:] if at <= taken[first] + 1.0]
        assert len(window) <= 100 + burst + 1


async def test_plaintext_and_slow_dialers_count_for_their_network_which_is_held_short() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        await alice.connect(address(bob))
        door = bob._switch._door
        port = int(bob.addresses()[0].rpartition("/")[2])

        async def says(words: bytes) -> None:
            with suppress(trio.BrokenResourceError):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(words)
                    await stream.send_eof()
                    while await stream.receive_some():
                        pass

        for number in range(int(NETWORK_LIMIT) + 4):
            await says(b"\x13/multistream/1.0.0\n\x0b/plaintext\n" if number % 2 else b"\x13/mul")
        await until(lambda: door._scores.refused("127.0.0.0/24", trio.current_time()))
        assert bob.peers() == {alice.peer_id}
