"""The body of a streamed answer: what leaves together, who waits for a slow client, what is said in silence."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio
import trio.testing
from starlette.types import Message
from trio.testing import MockClock

from tetherd.http.event_stream import KEEPALIVE_S, MAX_QUEUED_BYTES, EventStream
from tetherd.http.responses import WAITING


@dataclass
class Sent:
    """An ASGI send whose client reads once it may."""

    pieces: list[bytes] = field(default_factory=list)
    ended: bool = False
    reads: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            return
        await self.reads.wait()
        assert not self.ended
        self.pieces.append(message["body"])
        self.ended = not message["more_body"]


def reading() -> Sent:
    sent = Sent()
    sent.reads.set()
    return sent


async def test_what_is_written_leaves_at_once_with_what_was_put_and_the_last_with_the_end() -> None:
    sent = reading()
    stream = EventStream(sent)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.run)
        stream.start({})
        stream.put(b"one ")
        await stream.write(b"two ")
        stream.put(b"three ")
        await trio.testing.wait_all_tasks_blocked()
        stream.put(b"four ")
        await stream.end(b"five")
        await stream.end()
        await stream.write(b"late")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sent.pieces == [b"one two ", b"three ", b"four five"]
    assert sent.ended and not stream.open


async def test_a_client_that_does_not_read_holds_its_writer_and_nothing_is_lost() -> None:
    sent, written = Sent(), 0
    stream = EventStream(sent)
    piece = b"x" * 10_000

    async def write() -> None:
        nonlocal written
        for _ in range(40):
            await stream.write(piece)
            written += len(piece)
        await stream.end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.run)
        stream.start({})
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        assert written <= 2 * MAX_QUEUED_BYTES + len(piece)
        sent.reads.set()
        while not sent.ended:
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert b"".join(sent.pieces) == piece * 40


async def test_silence_is_broken_by_a_comment_and_only_silence(autojump_clock: MockClock) -> None:
    sent = reading()
    stream = EventStream(sent)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.run)
        stream.start({})
        for _ in range(5):
            await trio.sleep(0.6 * KEEPALIVE_S)
            await stream.write(b"token")
        await trio.testing.wait_all_tasks_blocked()
        assert WAITING not in sent.pieces
        await trio.sleep(2.5 * KEEPALIVE_S)
        nursery.cancel_scope.cancel()
    assert sent.pieces.count(WAITING) == 2
