"""Calls over a network that breaks: nothing is lost, nothing is doubled, and what cannot go on ends in time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.errors import CALL_LOST, CERTIFICATE_INVALID, UNREACHABLE, TetherError
from p2p.identity import PeerId
from p2p.membership import Admission
from p2p.rpc import Rpc, ServerCall
from p2p.transport import PeerAddress
from tests.p2p.calls import COUNT, ECHO, Note, Two, echo, two
from tests.p2p.nodes import A, B, C, admit, member

Handler = Callable[[ServerCall[Note, Note]], Awaitable[None]]


def ticking(every_s: float, ended: list[float] | None = None) -> Handler:
    """A handler that sends n notes, one every so often, and writes down when it ended."""

    async def handler(call: ServerCall[Note, Note]) -> None:
        try:
            for n in range(call.request.n):
                await call.send(Note(n=n, body=call.request.body))
                await trio.sleep(every_s)
        finally:
            if ended is not None:
                ended.append(trio.current_time())

    return handler


async def lost(pair: Two, notes: int = 100) -> float:
    """Listen until the call is lost; returns when that was."""
    with pytest.raises(TetherError) as caught:
        async with pair.alice.stream(B, COUNT, Note(n=notes)) as answers:
            async for _ in answers:
                pass
    assert caught.value.code is CALL_LOST
    return trio.current_time()


async def test_a_stream_goes_on_after_ten_seconds_without_a_network(autojump_clock: MockClock) -> None:
    async with two() as pair:
        pair.bob.serve_stream(COUNT, ticking(0.5))
        heard: list[int] = []
        start = trio.current_time()

        async def listen() -> None:
            async with pair.alice.stream(B, COUNT, Note(n=100)) as answers:
                async for note in answers:
                    heard.append(note.n)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.sleep(5.2)
            pair.world.cut(A, B)
            await trio.sleep(10)
            assert len(heard) == 11
            pair.world.heal(A, B)
        assert heard == list(range(100))
        assert trio.current_time() - start == pytest.approx(50, abs=1.5)


async def test_an_answer_given_while_the_network_was_away_arrives_once_it_is_back(
    autojump_clock: MockClock,
) -> None:
    asked = 0

    async def slow(peer: PeerId, note: Note) -> Note:
        nonlocal asked
        asked += 1
        await trio.sleep(5)
        return note

    async with two() as pair:
        pair.bob.serve(ECHO, slow)

        async def cut_for_a_while() -> None:
            await trio.sleep(1)
            pair.world.cut(A, B)
            await trio.sleep(8)
            pair.world.heal(A, B)

        pair.nursery.start_soon(cut_for_a_while)
        assert await pair.alice.ask(B, ECHO, Note("hello"), timeout_s=60) == Note("hello")
        assert asked == 1


async def test_after_twenty_seconds_the_call_is_lost_on_both_sides(autojump_clock: MockClock) -> None:
    ended: list[float] = []
    async with two() as pair:
        pair.bob.serve_stream(COUNT, ticking(1.0, ended))
        start = trio.current_time()

        async def cut() -> None:
            await trio.sleep(4.5)
            pair.world.cut(A, B)

        pair.nursery.start_soon(cut)
        assert await lost(pair) - start == pytest.approx(19.5, abs=0.1)
        await wait_all_tasks_blocked()
        assert ended == [pytest.approx(start + 19.5, abs=0.1)]
        pair.world.heal(A, B)
        await pair.at_alice.connect(PeerAddress(B))
        pair.bob.serve(ECHO, echo)
        assert (await pair.alice.ask(B, ECHO, Note("hi"), timeout_s=1)).text == "A said hi"


async def test_a_peer_that_was_restarted_does_not_know_the_call_and_says_so_at_once(
    autojump_clock: MockClock,
) -> None:
    async with two() as pair:
        pair.bob.serve_stream(COUNT, ticking(1.0))

        async def restart() -> None:
            await trio.sleep(4.5)
            again = await pair.restart_bob()
            again.serve_stream(COUNT, ticking(1.0))

        start = trio.current_time()
        pair.nursery.start_soon(restart)
        assert await lost(pair) - start == pytest.approx(4.5, abs=0.2)


async def test_a_dead_peer_whose_machine_refuses_is_given_up_after_a_second(
    autojump_clock: MockClock,
) -> None:
    async with two() as pair:
        pair.bob.serve_stream(COUNT, ticking(1.0))

        async def kill() -> None:
            await trio.sleep(4.5)
            pair.world.kill(B)

        start = trio.current_time()
        pair.nursery.start_soon(kill)
        assert await lost(pair) - start == pytest.approx(5.5, abs=0.1)


async def test_a_call_opened_while_the_peer_is_dead_fails_like_any_dial(autojump_clock: MockClock) -> None:
    async with two() as pair:
        pair.bob.serve_stream(COUNT, ticking(1.0))
        pair.nursery.start_soon(lost, pair)
        await trio.sleep(4.5)
        pair.world.kill(B)
        await wait_all_tasks_blocked()
        start = trio.current_time()
        with pytest.raises(TetherError) as caught:
            async with pair.alice.stream(B, COUNT, Note(n=1)) as answers:
                await anext(answers)
        assert caught.value.code is UNREACHABLE
        assert trio.current_time() - start < 0.5
        await trio.sleep(2)


async def test_the_handlers_of_a_caller_that_came_back_as_another_process_are_cancelled(
    autojump_clock: MockClock,
) -> None:
    ended: list[float] = []
    async with two() as pair:
        pair.bob.serve_stream(COUNT, ticking(1.0, ended))
        pair.bob.serve(ECHO, echo)
        pair.nursery.start_soon(lost, pair)
        await trio.sleep(4.5)
        pair.world.kill(A)
        again = Rpc(member(pair.world, A))
        await pair.nursery.start(again.run)
        await pair.at_bob.connect(PeerAddress(A))
        await again.ask(B, ECHO, Note(), timeout_s=1)
        await wait_all_tasks_blocked()
        assert ended == [pytest.approx(trio.current_time(), abs=0.1)]


async def test_a_peer_that_is_no_member_any_more_is_not_dialled_for_long(autojump_clock: MockClock) -> None:
    revoked = False

    def strict(passport: bytes, peer: PeerId) -> Admission:
        if revoked:
            raise TetherError(CERTIFICATE_INVALID, "Revoked.")
        return admit(passport, peer)

    async with two() as pair:
        pair.at_bob._admit = strict
        pair.bob.serve_stream(COUNT, ticking(1.0))

        async def revoke() -> None:
            nonlocal revoked
            await trio.sleep(4.5)
            revoked = True
            await pair.at_bob.disconnect(A)

        start = trio.current_time()
        pair.nursery.start_soon(revoke)
        with pytest.raises(TetherError) as caught:
            async with pair.alice.stream(B, COUNT, Note(n=100)) as answers:
                async for _ in answers:
                    pass
        assert caught.value.code is CERTIFICATE_INVALID
        assert trio.current_time() - start == pytest.approx(4.5, abs=0.1)


async def test_a_cancellation_during_a_break_reaches_the_other_side_after_it(
    autojump_clock: MockClock,
) -> None:
    ended: list[float] = []
    async with two() as pair:
        pair.bob.serve_stream(COUNT, ticking(1.0, ended))

        async def other() -> None:
            async with pair.alice.stream(B, COUNT, Note(n=20)) as answers:
                assert [note.n async for note in answers] == list(range(20))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            async with pair.alice.stream(B, COUNT, Note(n=100)) as answers:
                await anext(answers)
                await trio.sleep(2.2)
                pair.world.cut(A, B)
            await trio.sleep(5)
            assert ended == []
            pair.world.heal(A, B)
            await trio.sleep(2)
            assert len(ended) == 1


async def test_a_node_that_stops_says_so_and_its_calls_end_without_a_wait(autojump_clock: MockClock) -> None:
    ended: list[float] = []
    async with two() as pair, trio.open_nursery() as nursery:
        carol = Rpc(member(pair.world, C))
        await nursery.start(carol.run)
        carol.serve_stream(COUNT, ticking(1.0))
        pair.bob.serve_stream(COUNT, ticking(1.0, ended))
        await pair.at_alice.connect(PeerAddress(C, ("/memory/2",)))
        start = trio.current_time()

        async def stop() -> None:
            await trio.sleep(4.5)
            nursery.cancel_scope.cancel()

        async def call_bob() -> None:
            async with carol.stream(B, COUNT, Note(n=100)) as answers:
                async for _ in answers:
                    pass

        await pair.at_bob.connect(PeerAddress(C, ("/memory/2",)))
        nursery.start_soon(call_bob)
        nursery.start_soon(stop)
        with pytest.raises(TetherError) as caught, trio.CancelScope(shield=True):
            async with pair.alice.stream(C, COUNT, Note(n=100)) as answers:
                async for _ in answers:
                    pass
        assert caught.value.code is CALL_LOST
        assert trio.current_time() - start == pytest.approx(4.5, abs=0.3)
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
        assert ended == [pytest.approx(start + 4.5, abs=0.3)]


@dataclass(frozen=True)
class Weather:
    """When the connection breaks, and for how long each time; delay_s one way."""

    delay_s: float
    breaks: tuple[tuple[float, float], ...]


WEATHER = st.builds(
    Weather,
    st.sampled_from((0.0, 0.003, 0.2)),
    st.lists(st.tuples(st.floats(0.0, 3.0), st.sampled_from((0.0, 0.01, 0.5, 6.0))), max_size=12).map(tuple),
)


@settings(max_examples=60)
@given(
    WEATHER,
    st.lists(
        st.tuples(
            st.integers(1, 60), st.sampled_from((0, 300, 20_000, 300_000)), st.sampled_from((0.0, 0.1))
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_whatever_the_weather_every_answer_arrives_once_and_in_order(
    weather: Weather, streams: list[tuple[int, int, float]]
) -> None:
    async def main() -> None:
        async with two(delay_s=weather.delay_s) as pair:
            pair.bob.serve_stream(COUNT, ticking(0.02))

            async def storm() -> None:
                for after_s, long_s in weather.breaks:
                    await trio.sleep(after_s)
                    pair.world.cut(A, B)
                    await trio.sleep(long_s)
                    pair.world.heal(A, B)
                    await trio.sleep(
                        2.5 if long_s > 1 else 0
                    )  # two long breaks are one of more than 15 s else

            async def listen(
                notes: int, size: int, pause_s: float, *, task_status: trio.TaskStatus[None]
            ) -> None:
                async with pair.alice.stream(B, COUNT, Note(n=notes, body=bytes(size))) as answers:
                    heard = [(await anext(answers)).n]
                    task_status.started()
                    async for note in answers:
                        heard.append(note.n)
                        await trio.sleep(pause_s)
                assert heard == list(range(notes))

            async with trio.open_nursery() as nursery:
                for stream in streams:
                    await nursery.start(listen, *stream)
                nursery.start_soon(storm)

    trio.run(main, clock=MockClock(autojump_threshold=0))
