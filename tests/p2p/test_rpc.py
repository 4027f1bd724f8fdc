"""Calls over a network that works: answers, errors, streams, cancellation, deadlines, limits."""

from __future__ import annotations

from typing import NoReturn

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.errors import (
    CANCELLED,
    CAPACITY,
    DEADLINE,
    FIELD_INVALID,
    INTERNAL,
    UNKNOWN_METHOD,
    UNREACHABLE,
    Code,
    TetherError,
)
from p2p.identity import PeerId
from p2p.memory import MemoryNetwork
from p2p.pipe import PipeStream
from p2p.rpc import Rpc, RpcLimits, ServerCall
from tests.p2p.calls import COUNT, ECHO, KNOCK, Note, Two, echo, two
from tests.p2p.nodes import A, B, C, address, guest, member


async def count(call: ServerCall[Note, Note]) -> None:
    for n in range(call.request.n):
        await call.send(Note(n=n, body=call.request.body))


async def ask(pair: Two, text: str = "hello", *, timeout_s: float = 10.0) -> Note:
    return await pair.alice.ask(B, ECHO, Note(text), timeout_s=timeout_s)


async def code_of(pair: Two, *, timeout_s: float = 10.0) -> Code:
    with pytest.raises(TetherError) as caught:
        await ask(pair, timeout_s=timeout_s)
    return caught.value.code


async def test_a_question_is_answered() -> None:
    async with two() as pair:
        pair.bob.serve(ECHO, echo)
        assert await ask(pair) == Note("A said hello")


async def test_a_node_may_call_itself() -> None:
    async with two() as pair:
        pair.alice.serve(ECHO, echo)
        pair.alice.serve_stream(COUNT, count)
        assert await pair.alice.ask(A, ECHO, Note("hello"), timeout_s=1) == Note("A said hello")
        async with pair.alice.stream(A, COUNT, Note(n=3)) as answers:
            assert [note.n async for note in answers] == [0, 1, 2]


async def test_an_error_reaches_the_caller_whole() -> None:
    async def refuse(peer: PeerId, note: Note) -> NoReturn:
        raise TetherError(FIELD_INVALID, "No such text.", field="text", retry_after_s=2.5)

    async with two() as pair:
        pair.bob.serve(ECHO, refuse)
        with pytest.raises(TetherError) as caught:
            await ask(pair)
        error = caught.value
        assert (error.code, error.detail, error.field, error.retry_after_s) == (
            FIELD_INVALID,
            "No such text.",
            "text",
            2.5,
        )


async def test_a_fault_raised_inside_a_nursery_of_the_handler_is_still_that_fault() -> None:
    async def refuse() -> NoReturn:
        raise TetherError(FIELD_INVALID, "No such text.")

    async def busy(peer: PeerId, note: Note) -> Note:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
        return note

    async with two() as pair:
        pair.bob.serve(ECHO, busy)
        assert await code_of(pair) is FIELD_INVALID


async def test_an_unknown_method_is_said_to_be_one() -> None:
    async with two() as pair:
        assert await code_of(pair) is UNKNOWN_METHOD


async def test_a_bug_in_a_handler_is_logged_without_its_words_and_the_node_goes_on() -> None:
    async def broken(peer: PeerId, note: Note) -> NoReturn:
        raise KeyError("the secret of the request")

    async with two() as pair:
        pair.bob.serve(ECHO, broken)
        with capture_logs() as logs:
            assert await code_of(pair) is INTERNAL
        (crash,) = logs
        assert (crash["event"], crash["method"], crash["bug"]) == ("rpc.handler_crashed", "echo", "KeyError")
        assert crash["where"].startswith("test_rpc.py:")
        assert "secret" not in str(crash)
        pair.bob.serve(ECHO, echo)
        assert (await ask(pair)).text == "A said hello"


async def test_ten_thousand_small_answers_come_in_order() -> None:
    async with two() as pair:
        pair.bob.serve_stream(COUNT, count)
        async with pair.alice.stream(B, COUNT, Note(n=10_000)) as answers:
            assert [note.n async for note in answers] == list(range(10_000))


async def test_a_stream_ends_with_the_fault_of_its_handler_after_what_came_before_it() -> None:
    async def half(call: ServerCall[Note, Note]) -> None:
        await call.send(Note(n=1))
        raise TetherError(CAPACITY, "Enough.")

    async with two() as pair:
        pair.bob.serve_stream(COUNT, half)
        async with pair.alice.stream(B, COUNT, Note()) as answers:
            assert (await anext(answers)).n == 1
            with pytest.raises(TetherError) as caught:
                await anext(answers)
        assert caught.value.code is CAPACITY


async def test_a_handler_knows_its_peer_and_every_call_by_an_id_of_its_own() -> None:
    seen: list[tuple[PeerId, str]] = []

    async def look(call: ServerCall[Note, Note]) -> None:
        seen.append((call.peer, call.correlation_id))

    async with two() as pair:
        pair.bob.serve_stream(COUNT, look)
        for _ in range(2):
            async with pair.alice.stream(B, COUNT, Note()) as answers:
                assert [note async for note in answers] == []
    assert [peer for peer, _ in seen] == [A, A]
    assert len({correlation for _, correlation in seen}) == 2
    assert all(len(bytes.fromhex(correlation)) == 16 for _, correlation in seen)


async def test_five_hundred_calls_at_a_time_get_each_its_own_answers() -> None:
    async with two() as pair:
        pair.bob.serve(ECHO, echo)
        pair.bob.serve_stream(COUNT, count)
        done = 0

        async def one(n: int) -> None:
            nonlocal done
            assert (await ask(pair, str(n))).text == f"A said {n}"
            async with pair.alice.stream(B, COUNT, Note(n=5, body=b"%d" % n)) as answers:
                assert [(note.n, note.body) async for note in answers] == [(k, b"%d" % n) for k in range(5)]
            done += 1

        async with trio.open_nursery() as nursery:
            for n in range(500):
                nursery.start_soon(one, n)
        assert done == 500


async def test_leaving_a_stream_early_cancels_its_handler() -> None:
    ended = trio.Event()
    causes: list[Code] = []

    async def forever(call: ServerCall[Note, Note]) -> None:
        try:
            await call.send(Note())
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True), pytest.raises(TetherError) as caught:
                await call.send(Note())
            causes.append(caught.value.code)
            ended.set()

    async with two() as pair:
        pair.bob.serve_stream(COUNT, forever)
        async with pair.alice.stream(B, COUNT, Note()) as answers:
            await anext(answers)
        await ended.wait()
    assert causes == [CANCELLED]


async def test_a_caller_that_is_cancelled_while_it_waits_cancels_the_handler() -> None:
    started, ended = trio.Event(), trio.Event()

    async def forever(peer: PeerId, note: Note) -> Note:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with two() as pair:
        pair.bob.serve(ECHO, forever)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, pair)
            await started.wait()
            nursery.cancel_scope.cancel()
        await ended.wait()


async def test_answers_to_a_call_that_was_left_are_dropped_and_the_next_call_works() -> None:
    gate = trio.Event()

    async def stubborn(call: ServerCall[Note, Note]) -> None:
        with trio.CancelScope(shield=True):
            for n in range(100_000):
                try:
                    await call.send(Note(n=n))
                except TetherError:
                    gate.set()
                    raise

    async with two() as pair:
        pair.bob.serve(ECHO, echo)
        pair.bob.serve_stream(COUNT, stubborn)
        async with pair.alice.stream(B, COUNT, Note()) as answers:
            await anext(answers)
        await gate.wait()
        assert await ask(pair) == Note("A said hello")


async def test_a_deadline_ends_the_call_on_both_sides(autojump_clock: MockClock) -> None:
    ended_at: list[float] = []

    async def forever(peer: PeerId, note: Note) -> Note:
        try:
            await trio.sleep_forever()
        finally:
            ended_at.append(trio.current_time())

    async with two() as pair:
        pair.bob.serve(ECHO, forever)
        start = trio.current_time()
        assert await code_of(pair, timeout_s=3.0) is DEADLINE
        await wait_all_tasks_blocked()
        assert trio.current_time() - start == pytest.approx(3.0)
        assert ended_at == [pytest.approx(start + 3.0)]


async def test_a_stream_has_a_deadline_as_a_whole(autojump_clock: MockClock) -> None:
    async def slow(call: ServerCall[Note, Note]) -> None:
        for n in range(10):
            await trio.sleep(1.0)
            await call.send(Note(n=n))

    async with two() as pair:
        pair.bob.serve_stream(COUNT, slow)
        heard = []
        with pytest.raises(TetherError) as caught:
            async with pair.alice.stream(B, COUNT, Note(), timeout_s=3.5) as answers:
                async for note in answers:
                    heard.append(note.n)
        assert (caught.value.code, heard) == (DEADLINE, [0, 1, 2])


async def test_an_unreachable_peer_is_said_to_be_one_at_once() -> None:
    async with two() as pair:
        with pytest.raises(TetherError) as caught:
            await pair.alice.ask(C, ECHO, Note(), timeout_s=10)
        assert caught.value.code is UNREACHABLE
        member(pair.world, C)
        with pytest.raises(TetherError) as caught:
            await pair.alice.ask(C, ECHO, Note(), timeout_s=10)
        assert caught.value.code is UNREACHABLE


async def test_a_peer_has_so_many_calls_at_a_time_and_more_are_told_when_to_come_back() -> None:
    release = trio.Event()

    async def wait(peer: PeerId, note: Note) -> Note:
        await release.wait()
        return note

    async with two(limits=RpcLimits(inbound_calls=3)) as pair:
        pair.bob.serve(ECHO, wait)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, pair)
            await wait_all_tasks_blocked()
            with pytest.raises(TetherError) as caught:
                await ask(pair)
            assert (caught.value.code, caught.value.retry_after_s) == (CAPACITY, 1.0)
            release.set()
        await ask(pair)


async def test_requests_that_handlers_hold_are_bounded_in_bytes() -> None:
    async def wait(peer: PeerId, note: Note) -> Note:
        await trio.sleep_forever()

    async with two(limits=RpcLimits(inbound_request_bytes=100_000)) as pair:
        pair.bob.serve(ECHO, wait)

        async def send() -> None:
            await pair.alice.ask(B, ECHO, Note(body=bytes(60_000)), timeout_s=10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            with pytest.raises(TetherError) as caught:
                await send()
            assert caught.value.code is CAPACITY
            nursery.cancel_scope.cancel()


async def test_a_guest_reaches_what_guests_may_call_and_nothing_else() -> None:
    world = MemoryNetwork()
    at_bob, at_carol = member(world, B), guest(world, C)
    bob, carol = Rpc(at_bob), Rpc(at_carol)
    async with trio.open_nursery() as nursery:
        await nursery.start(bob.run)
        await nursery.start(carol.run)
        bob.serve(ECHO, echo)
        bob.serve(KNOCK, echo, guests=True)
        await at_carol.connect(address(at_bob))
        assert (await carol.ask(B, KNOCK, Note("hello"), timeout_s=1)).text == "C said hello"
        with pytest.raises(TetherError) as caught:
            await carol.ask(B, ECHO, Note("hello"), timeout_s=1)
        assert caught.value.code is UNREACHABLE
        nursery.cancel_scope.cancel()


async def test_a_member_may_call_what_guests_may_and_a_guests_stream_reaches_nothing_more() -> None:
    async with two() as pair:
        pair.bob.serve(KNOCK, echo, guests=True)
        pair.bob.serve(ECHO, echo)
        assert (await pair.alice.ask(B, KNOCK, Note("hello"), timeout_s=1)).text == "A said hello"
        sneaky = type(ECHO)("echo", Note, Note, guests=True)
        with pytest.raises(TetherError) as caught:
            await pair.alice.ask(B, sneaky, Note("hello"), timeout_s=1)
        assert caught.value.code is UNKNOWN_METHOD


async def test_an_answer_costs_one_write_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[PeerId] = []
    write, write_now = PipeStream.write, PipeStream.write_now

    async def counted(stream: PipeStream, data: bytes) -> None:
        writes.append(stream.peer)
        await write(stream, data)

    def counted_now(stream: PipeStream, data: bytes) -> bool:
        writes.append(stream.peer)
        return write_now(stream, data)

    monkeypatch.setattr(PipeStream, "write", counted)
    monkeypatch.setattr(PipeStream, "write_now", counted_now)
    async with two() as pair:
        pair.bob.serve(ECHO, echo)
        await ask(pair)
        await wait_all_tasks_blocked()
        assert writes[0] == B  # greeting and question in one; both sides measure the way
        writes.clear()
        for _ in range(10):
            await ask(pair)
        assert writes == [B, A] * 10


async def test_both_ends_count_calls_by_method_and_code() -> None:
    counted: list[tuple[str, str, str]] = []
    started: list[tuple[str, str]] = []

    class Counting:
        def call_started(self, side: str, method: str) -> None:
            started.append((side, method))

        def call_ended(
            self, side: str, method: str, code: str, *, seconds: float, sent_bytes: int, received_bytes: int
        ) -> None:
            assert seconds >= 0 and received_bytes > 0 < sent_bytes
            counted.append((side, method, code))

    async with two(alice_metrics=Counting(), bob_metrics=Counting()) as pair:
        pair.bob.serve(ECHO, echo)
        await ask(pair)
    assert sorted(started) == [("callee", "echo"), ("caller", "echo")]
    assert sorted(counted) == [("callee", "echo", "OK"), ("caller", "echo", "OK")]
