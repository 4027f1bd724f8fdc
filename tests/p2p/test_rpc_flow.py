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

SMALL = RpcLimits(call_credit_bytes=20_000, peer_credit_bytes=200_000)


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
            assert 200 < producer.sent <= 3 + RpcLimits().call_credit_bytes // NOTE_WEIGHT + 1
            for _ in range(10):
                await read(pair, 50)
                await pair.alice.ask(B, ECHO, Note(), timeout_s=1)
            assert trio.current_time() - start < 2
        assert trio.current_time() - start == pytest.approx(60, abs=1)


async def test_all_calls_to_a_peer_share_one_limit(autojump_clock: MockClock) -> None:
    async with two(limits=SMALL) as pair:
        producer = Producer()
        pair.bob.serve_stream(COUNT, producer)
        pair.bob.serve(ECHO, echo)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(lambda: read(pair, 200, pause_after=0, pause_s=60))
            await trio.sleep(30)
            assert producer.sent == pytest.approx(SMALL.lane_credit_bytes // NOTE_WEIGHT, abs=2)
            await pair.alice.ask(B, ECHO, Note(), timeout_s=1)  # control has a lane of its own
        assert producer.sent == 4000


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
            assert channel.backlog_bytes <= limits.ack_bytes + limits.batch_bytes
            assert len(channel._kept) <= limits.ack_frames
