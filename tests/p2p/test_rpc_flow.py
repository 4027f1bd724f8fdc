"""Credit: who does not read stops nobody else, and memory stays bounded on both sides."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.rpc import RpcLimits, ServerCall
from p2p.rpc.frames import MESSAGE_WEIGHT
from p2p.wire import encode
from tests.p2p.calls import COUNT, ECHO, Note, Two, echo, two
from tests.p2p.nodes import A, B

SMALL = RpcLimits(
    message_bytes=100_000,
    peer_credit_bytes=200_000,
    outbound_calls=20,
    floor_bytes=2_000,
    widest_bytes=(10_000, 20_000, 50_000),
)
NOTE_WEIGHT = len(encode(Note(n=100, body=bytes(1000)))) + MESSAGE_WEIGHT


class Producer:
    """Serves COUNT and says how far it has come."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, call: ServerCall[Note, Note]) -> None:
        for n in range(call.request.n):
            await call.send(Note(n=n, body=bytes(1000)))
            self.sent += 1


async def read(pair: Two, notes: int, *, pause_after: int = 0, pause_s: float = 0.0) -> None:
    async with pair.alice.stream(B, COUNT, Note(n=notes)) as answers:
        for expected in range(notes):
            if expected == pause_after:
                await trio.sleep(pause_s)
            assert (await anext(answers)).n == expected
        with pytest.raises(StopAsyncIteration):
            await anext(answers)


async def test_a_reader_that_pauses_for_a_minute_loses_nothing_and_holds_up_nobody(
    autojump_clock: MockClock,
) -> None:
    async with two() as pair:
        producer = Producer()
        pair.bob.serve_stream(COUNT, producer)
        pair.bob.serve(ECHO, echo)
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: read(pair, 2000, pause_after=3, pause_s=60))
            await trio.sleep(1)
            assert 200 < producer.sent <= 3 + RpcLimits().widest_bytes[1] // NOTE_WEIGHT + 1
            for _ in range(10):
                await read(pair, 50)
                await pair.alice.ask(B, ECHO, Note(), timeout_s=1)
            assert trio.current_time() - start < 2
        assert trio.current_time() - start == pytest.approx(60, abs=1)


async def test_two_hundred_readers_that_never_read_hold_up_no_other_call(autojump_clock: MockClock) -> None:
    async with two() as pair:
        producer = Producer()
        pair.bob.serve_stream(COUNT, producer)
        pair.bob.serve(ECHO, echo)

        async def never_read() -> None:
            async with pair.alice.stream(B, COUNT, Note(n=10_000)):
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(never_read)
            await trio.sleep(1)
            stalled = producer.sent
            await trio.sleep(60)
            assert producer.sent == stalled
            start = trio.current_time()
            for _ in range(3):
                await read(pair, 500)
                await pair.alice.ask(B, ECHO, Note(body=bytes(1_000_000)), timeout_s=1)
            assert trio.current_time() - start < 1
            (pool,) = pair.alice._pools.values()
            assert stalled * NOTE_WEIGHT <= pool.held <= RpcLimits().peer_credit_bytes
            assert pair.bob._inbound._peers[A, False].sessions[0].channel.outbox.backlog_bytes < 1 << 20
            nursery.cancel_scope.cancel()


async def test_a_large_answer_to_one_reader_leaves_room_for_the_others(autojump_clock: MockClock) -> None:
    async def large(call: ServerCall[Note, Note]) -> None:
        await call.send(Note(body=bytes(call.request.n)))

    async with two(delay_s=0.01) as pair:
        pair.bob.serve_stream(COUNT, large)
        pair.bob.serve(ECHO, echo)
        sizes: list[int] = []

        async def fetch(size: int) -> None:
            async with pair.alice.stream(B, COUNT, Note(n=size)) as answers:
                sizes.append(len((await anext(answers)).body))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(fetch, 8_000_000)
            await trio.sleep(0.1)
            nursery.start_soon(fetch, 1000)
        assert sizes == [1000, *[8_000_000] * 4]


async def test_a_message_larger_than_the_credit_goes_through_on_its_own(autojump_clock: MockClock) -> None:
    async def large(call: ServerCall[Note, Note]) -> None:
        for n in range(5):
            await call.send(Note(n=n, body=bytes(90_000)))
            await call.send(Note(n=n, body=bytes(100)))

    async with two(limits=SMALL) as pair:
        pair.bob.serve_stream(COUNT, large)
        async with pair.alice.stream(B, COUNT, Note()) as answers:
            assert [len(note.body) async for note in answers] == [90_000, 100] * 5


async def test_credit_of_calls_that_were_left_unread_comes_back(autojump_clock: MockClock) -> None:
    async with two(limits=SMALL) as pair:
        pair.bob.serve_stream(COUNT, Producer())
        for _ in range(50):
            async with pair.alice.stream(B, COUNT, Note(n=100)) as answers:
                await anext(answers)
                await trio.sleep(0.1)
        with trio.fail_after(1):
            await read(pair, 100)


async def test_unary_answers_bring_their_credit_back_however_many(autojump_clock: MockClock) -> None:
    async with two(limits=SMALL) as pair:
        pair.bob.serve(ECHO, echo)
        for _ in range(300):
            await pair.alice.ask(B, ECHO, Note(body=bytes(1000)), timeout_s=1)


async def test_what_the_peer_has_is_forgotten_by_its_sender(autojump_clock: MockClock) -> None:
    async with two() as pair:
        pair.bob.serve_stream(COUNT, Producer())
        await read(pair, 5000)
        await wait_all_tasks_blocked()
        (theirs,) = pair.bob._inbound._peers[A, False].sessions.values()
        (ours,) = pair.alice._outbound.values()
        limits = RpcLimits()
        for channel in (theirs.channel, ours.channel):
            assert channel.outbox.backlog_bytes <= limits.ack_bytes + limits.batch_bytes
