"""Readers that pause, in virtual time: nothing is lost, nobody else waits, and what is kept is bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from p2p.host.connection import Connection, agree
from p2p.host.handshake import Gate
from p2p.host.streams import MuxedStream
from p2p.host.yamux.budget import MAX_WINDOW
from p2p.transport import ARTIFACTS, CONTROL
from tests.swarms import make_swarm

ECHO, SLOW = "/echo/1", "/slow/1"
TOTAL_BYTES = 24 << 20


class Pair:
    """A connection over a pipe; slow: the far end of the stream that pauses."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.slow: MuxedStream | None = None
        self.most_kept = 0


@asynccontextmanager
async def connected(pause_s: float, read: list[int]) -> AsyncIterator[Pair]:
    swarm = make_swarm(2)
    near, far = memory_stream_pair()
    dialer = Gate(swarm.keys[0], lambda: swarm.passport(0), swarm.admit)
    listener = Gate(swarm.keys[1], lambda: swarm.passport(1), swarm.admit)

    async def serve(protocol: str, stream: MuxedStream) -> None:
        if protocol == ECHO:
            while data := await stream.read(1000):
                await stream.write(data)
            return
        pair.slow = stream
        while True:
            await trio.sleep(pause_s)
            for _ in range(64):
                pair.most_kept = max(pair.most_kept, stream._flow.buffered)
                data = await stream.read(65_536)
                read[0] += len(data)
                if not data:
                    return

    async def listen(nursery: trio.Nursery) -> None:
        connection = await agree(await listener.accept(far), outbound=False)
        await connection.run({ECHO, SLOW}, serve, nursery)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, nursery)
        connection = await agree(await dialer.dial(near, swarm.keys[1].node_id), outbound=True)
        nursery.start_soon(connection.run, (), serve, nursery)
        pair = Pair(connection)
        yield pair
        await connection.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pause_s", [4.0, 6.0, 60.0])
async def test_a_reader_that_pauses_loses_nothing_and_keeps_one_window_at_most(
    pause_s: float, autojump_clock: MockClock
) -> None:
    read = [0]
    async with connected(pause_s, read) as pair:
        stream, _ = await pair.connection.open_stream([SLOW], ARTIFACTS)
        other, _ = await pair.connection.open_stream([ECHO], CONTROL)

        async def write() -> None:
            for _ in range(TOTAL_BYTES >> 20):
                await stream.write(bytes(1 << 20))
            await stream.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.sleep(pause_s / 2)
            before = trio.current_time()
            await other.write(b"others go on")
            assert await other.read(100) == b"others go on"
            assert trio.current_time() == before
        while read[0] < TOTAL_BYTES:  # noqa: ASYNC110
            await trio.sleep(pause_s)
        assert read[0] == TOTAL_BYTES
        assert 0 < pair.most_kept <= MAX_WINDOW


async def test_a_write_that_waits_for_credit_may_be_cancelled_and_the_connection_stays_whole(
    autojump_clock: MockClock,
) -> None:
    async with connected(1_000_000.0, [0]) as pair:
        stream, _ = await pair.connection.open_stream([SLOW])
        with trio.move_on_after(5) as scope:
            await stream.write(bytes(TOTAL_BYTES))
        assert scope.cancelled_caught
        await stream.reset()
        other, _ = await pair.connection.open_stream([ECHO])
        await other.write(b"whole")
        assert await other.read(100) == b"whole"
