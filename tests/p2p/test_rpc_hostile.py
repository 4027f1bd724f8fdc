"""A peer that speaks frames by hand and means no good: its session ends with the reason, the node goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.errors import (
    CALL_LOST,
    CAPACITY,
    FLOW_VIOLATION,
    FRAME_INVALID,
    FRAME_TOO_LARGE,
    VERSION_UNSUPPORTED,
    Code,
    TetherError,
)
from p2p.frames import FrameReader, frame
from p2p.rpc import MEMBER_PROTOCOL, RpcLimits, ServerCall
from p2p.rpc.frames import (
    VERSION,
    Block,
    Cancel,
    Credit,
    Data,
    Failed,
    Hello,
    Last,
    More,
    Numbered,
    Open,
    Part,
    pack,
    unpack,
)
from p2p.transport import Stream, StreamHandler
from p2p.wire import encode
from tests.p2p.calls import COUNT, ECHO, Note, Two, echo, two
from tests.p2p.nodes import B, C, address, member

HELLO = Hello(VERSION, b"hostile!", 0, 0, False, 0)


def opening(call: int = 1, method: str = "echo", note: Note = Note(), credit: int = 1 << 18) -> Open:  # noqa: B008
    return Open(call, method, None, credit, 0, encode(note))


def wire(*said: Hello | Block | Numbered) -> bytes:
    """Greetings and blocks as they are, frames each in a block of its own that acknowledges nothing."""
    return b"".join(pack(one if isinstance(one, Hello | Block) else Block(0, [one])) for one in said)


class Raw:
    """A stream to bob, spoken by hand."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.reader = FrameReader(stream, 1 << 20)
        self.received = 0
        self._heard: list[Numbered] = []

    async def say(self, *said: Hello | Block | Numbered) -> None:
        await self.stream.write(wire(*said))

    async def hear(self) -> Numbered | Block:
        """The next frame, or a block without one that was not only an acknowledgement."""
        while not self._heard:
            body = await self.reader.one()
            assert body is not None, "the stream ended"
            block = unpack(body)
            assert isinstance(block, Block)
            if block.farewell is not None:
                return block
            self.received += len(block.frames)
            self._heard += block.frames
        return self._heard.pop(0)

    async def goodbye(self) -> str:
        while True:
            heard = await self.hear()
            if isinstance(heard, Block) and heard.farewell is not None:
                return heard.farewell.code


@asynccontextmanager
async def mallory(pair: Two) -> AsyncIterator[Raw]:
    """A member that is no Rpc opens a stream to bob, and afterwards alice is still served."""
    pair.bob.serve(ECHO, echo)
    if C not in pair.at_bob.peers():
        at_mallory = member(pair.world, C)
        await at_mallory.connect(address(pair.at_bob))
    raw = Raw(await pair.world._nodes[C].open_stream(B, MEMBER_PROTOCOL))
    yield raw
    assert (await pair.alice.ask(B, ECHO, Note("hi"), timeout_s=5)).text == "A said hi"


async def test_frames_by_hand_make_a_call() -> None:
    async with two() as pair, mallory(pair) as raw:
        await raw.say(HELLO, opening(note=Note("hi")))
        assert await raw.hear() == Last(1, encode(Note("C said hi")))


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (frame(b"garbage"), FRAME_INVALID),
        ((1 << 31).to_bytes(4, "big"), FRAME_TOO_LARGE),
        (pack(HELLO), FRAME_INVALID),
        (pack(Block(1, [])), FRAME_INVALID),
        (wire(Data(1, b"")), FRAME_INVALID),
        (wire(Cancel(99)), FRAME_INVALID),
        (wire(opening(call=7), opening(call=7)), FRAME_INVALID),
        (wire(opening(call=7), opening(call=6)), FRAME_INVALID),
        (wire(opening(call=8, method="count"), Data(8, b"")), FRAME_INVALID),
        (wire(opening(call=8, method="count"), Credit(8, 1 << 30)), FLOW_VIOLATION),
        (wire(opening(call=8, method="count"), More(8, b"more")), FLOW_VIOLATION),
        (wire(Open(8, "count", None, 0, 10, b""), More(8, bytes(11))), FLOW_VIOLATION),
        (wire(Open(8, "count", None, 0, 10, b""), More(8, b"")), FRAME_INVALID),
        (wire(opening(call=8, method="count", credit=1 << 30)), FLOW_VIOLATION),
    ],
)
async def test_a_session_that_breaks_the_rules_is_ended_with_the_reason(said: bytes, code: Code) -> None:
    async def forever(call: ServerCall[Note, Note]) -> None:
        await trio.sleep_forever()

    async with two() as pair:
        pair.bob.serve_stream(COUNT, forever)
        async with mallory(pair) as raw:
            await raw.say(HELLO)
            await raw.stream.write(said)
            assert await raw.goodbye() == code.name


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (wire(opening()), FRAME_INVALID),
        (frame(b"\xc1"), FRAME_INVALID),
        (pack(Hello(2, b"hostile!", 0, 0, False, 0)), VERSION_UNSUPPORTED),
        (pack(Hello(VERSION, b"hostile!", 0, 0, True, 0)), CALL_LOST),
        (pack(Hello(VERSION, b"hostile!", 0, 0, False, 3)), FRAME_INVALID),
    ],
)
async def test_a_stream_that_is_not_greeted_well_is_refused(said: bytes, code: Code) -> None:
    async with two() as pair, mallory(pair) as raw:
        await raw.stream.write(said)
        assert await raw.goodbye() == code.name


async def test_a_stream_that_says_nothing_is_hung_up(autojump_clock: MockClock) -> None:
    async with two() as pair, mallory(pair) as raw:
        start = trio.current_time()
        assert await raw.goodbye() == FRAME_INVALID.name
        assert trio.current_time() - start == pytest.approx(RpcLimits().hello_s)


async def test_a_request_that_is_no_message_of_its_method_is_answered_so_and_nothing_else_ends() -> None:
    async with two() as pair, mallory(pair) as raw:
        await raw.say(HELLO, Open(1, "echo", None, 100, 0, b"\x01"), opening(2, note=Note("hi")))
        answers = {type(answer): answer for answer in (await raw.hear(), await raw.hear())}
        failed, last = answers[Failed], answers[Last]
        assert isinstance(failed, Failed) and failed.error.code == FRAME_INVALID.name
        assert isinstance(last, Last) and last.call == 2


async def test_a_violation_cancels_the_handlers_of_its_session() -> None:
    ended = trio.Event()

    async def forever(call: ServerCall[Note, Note]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with two() as pair:
        pair.bob.serve_stream(COUNT, forever)
        async with mallory(pair) as raw:
            await raw.say(HELLO, opening(method="count"))
            await wait_all_tasks_blocked()
            await raw.stream.write(frame(b"garbage"))
            await ended.wait()


async def test_more_sessions_than_allowed_are_refused_unless_an_old_one_lost_its_stream() -> None:
    async def greeted(pair: Two, serial: int) -> Raw:
        raw = Raw(await pair.world._nodes[C].open_stream(B, MEMBER_PROTOCOL))
        await raw.say(Hello(VERSION, b"hostile!", serial, 0, False, 0))
        await wait_all_tasks_blocked()
        return raw

    async with two() as pair, mallory(pair) as first:
        await first.say(HELLO)
        raws = [first]
        for serial in range(1, RpcLimits().inbound_sessions):
            raws.append(await greeted(pair, serial))
        assert await (await greeted(pair, 100)).goodbye() == CAPACITY.name
        await raws[2].stream.reset()
        await wait_all_tasks_blocked()
        another = await greeted(pair, 101)
        await another.say(opening(note=Note("hi")))
        assert isinstance(await another.hear(), Last)


async def test_late_frames_of_calls_that_ended_are_dropped() -> None:
    async with two() as pair, mallory(pair) as raw:
        await raw.say(HELLO, opening(note=Note("hi")))
        await raw.hear()
        late = (Cancel(1), Credit(1, 100), More(1, b"more"), Cancel(1))
        await raw.say(*late, opening(2, note=Note("again")), *late)
        assert await raw.hear() == Last(2, encode(Note("C said again")))


async def test_a_caller_that_acknowledges_nothing_is_cut_off_before_it_costs_much(
    autojump_clock: MockClock,
) -> None:
    limits = RpcLimits(backlog_bytes=200_000)

    async def pour(call: ServerCall[Note, Note]) -> None:
        while True:
            await call.send(Note(body=bytes(1000)))

    async with two(limits=limits) as pair:
        pair.bob.serve_stream(COUNT, pour)
        async with mallory(pair) as raw:
            await raw.say(HELLO, opening(method="count"))
            code = None
            while code is None:
                match await raw.hear():
                    case Data(message=message):
                        await raw.say(Credit(1, len(message) + 64))
                    case Block(farewell=farewell) if farewell is not None:
                        code = farewell.code
            assert code == FLOW_VIOLATION.name


async def test_a_second_stream_of_a_session_takes_over_from_the_first() -> None:
    async with two() as pair, mallory(pair) as raw:
        await raw.say(HELLO)
        other = Raw(await pair.world._nodes[C].open_stream(B, MEMBER_PROTOCOL))
        await other.say(HELLO, opening(note=Note("hi")))
        assert await other.hear() == Last(1, encode(Note("C said hi")))
        with pytest.raises(TetherError):
            await raw.reader.one()


def evil(*said: Hello | Block | Numbered | bytes) -> StreamHandler:
    """A worker that answers the first greeting with this."""

    async def handler(stream: Stream) -> None:
        raw = Raw(stream)
        await raw.reader.some()
        await raw.say(Block(0, []))
        for one in said:
            await stream.write(one if isinstance(one, bytes) else wire(one))
        await trio.sleep_forever()

    return handler


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ([frame(b"garbage")], FRAME_INVALID),
        ([(1 << 31).to_bytes(4, "big")], FRAME_TOO_LARGE),
        ([Data(2, b"")], FRAME_INVALID),
        ([Open(1, "x", None, 0, 0, b"")], FRAME_INVALID),
        ([Block(100, [])], FRAME_INVALID),
        ([Data(1, encode(Note(body=bytes(1000))))] * 300, FLOW_VIOLATION),
        ([Part(1, 1 << 30, b"part")], FRAME_TOO_LARGE),
        ([Part(1, 10, b"part"), Data(1, b"rest")], FRAME_INVALID),
        ([Part(1, 10, b"part"), Part(1, 10, b"part")], FRAME_INVALID),
        ([Part(1, 10**6 - n * 10**5, bytes(10**5)) for n in range(1, 11)], FLOW_VIOLATION),
        ([Credit(1, 1)], FLOW_VIOLATION),
        ([Block(0, [], farewell=TetherError(CAPACITY, "No.").to_wire())], CAPACITY),
    ],
)
async def test_an_evil_callee_ends_the_call_with_the_reason(
    said: list[Block | Numbered | bytes], code: Code
) -> None:
    async with two() as pair:
        pair.at_bob.handle(MEMBER_PROTOCOL, evil(*said))
        with pytest.raises(TetherError) as caught:
            async with pair.alice.stream(B, COUNT, Note()) as answers:
                await wait_all_tasks_blocked()
                async for _ in answers:
                    await wait_all_tasks_blocked()
        assert caught.value.code is code


@settings(max_examples=200)
@given(
    st.lists(
        st.binary(max_size=30).map(frame)
        | st.binary(max_size=30)
        | st.builds(opening, st.integers(1, 5), st.sampled_from(("echo", "count", "none"))).map(wire)
        | st.builds(
            Open, st.integers(1, 5), st.just("count"), st.none(), st.just(9), st.integers(0, 99), st.binary()
        ).map(wire)
        | st.builds(More, st.integers(1, 5), st.binary(max_size=50)).map(wire)
        | st.builds(Credit, st.integers(1, 5), st.integers(0, 1 << 20)).map(wire)
        | st.builds(Cancel, st.integers(1, 5)).map(wire)
        | st.builds(Block, st.integers(0, 5), st.just([])).map(wire)
        | st.just(pack(HELLO)),
        max_size=12,
    )
)
def test_whatever_a_peer_sends_the_node_goes_on_serving_others(said: list[bytes]) -> None:
    async def pour(call: ServerCall[Note, Note]) -> None:
        for n in range(20):
            await call.send(Note(n=n, body=bytes(100)))

    async def main() -> None:
        async with two() as pair:
            pair.bob.serve_stream(COUNT, pour)
            async with mallory(pair) as raw:
                try:
                    await raw.say(HELLO)
                    for one in said:
                        await raw.stream.write(one)
                    await raw.stream.close()
                    while await raw.stream.read(10_000):
                        pass
                except TetherError:
                    pass

    trio.run(main, clock=MockClock(autojump_threshold=0))
