"""Streams that are fed to a sink by the task that reads the connection."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2p.errors import FRAME_INVALID, UNREACHABLE, TetherError
from p2p.host.host import Host
from p2p.transport import Stream
from tests.p2p.hosts import address, echo, open_nodes
from tests.swarms import make_swarm

ECHO = "/tether/echo/1"


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Host, Host]]:
    """Two connected hosts, of which the second echoes in capitals."""
    async with open_nodes(make_swarm(2), 2) as (alice, bob):
        bob.handle(ECHO, echo)
        await alice.connect(address(bob))
        yield alice, bob


async def test_a_sink_gets_all_in_order_until_the_peer_closes() -> None:
    async with echoing() as (alice, bob):
        for _ in range(2):  # the second time the protocol is taken for granted
            stream = await alice.open_stream(bob.peer_id, ECHO)
            data = os.urandom(1).hex().encode() * 1_000_000
            received = bytearray()
            async with trio.open_nursery() as nursery:

                async def send(stream: Stream = stream, data: bytes = data) -> None:
                    await stream.write(data)
                    await stream.close()

                nursery.start_soon(send)
                await stream.feed(received.extend)
            assert bytes(received) == data.upper()


async def test_a_sink_may_answer_what_it_gets() -> None:
    """A word goes back and forth ten times, a letter longer each time, and no part of it is out of place."""
    async with echoing() as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        heard: list[bytes] = []
        closing = trio.Event()

        def sink(data: bytes) -> None:
            heard.append(data)
            if len(heard) == 10:
                closing.set()
            elif len(heard) < 10:
                assert stream.write_now(data + b"%d" % len(heard))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.feed, sink)
            await stream.write(b"a")
            await closing.wait()
            await stream.close()
        assert heard == [b"A123456789"[: size + 1] for size in range(10)]


async def test_a_sink_that_fails_is_called_no_more_and_the_connection_stays() -> None:
    async with echoing() as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        calls: list[bytes] = []

        def sink(data: bytes) -> None:
            calls.append(data)
            raise TetherError(FRAME_INVALID, "That is none.")

        await stream.write(b"one")
        with pytest.raises(TetherError) as caught:
            await stream.feed(sink)
        assert caught.value.code is FRAME_INVALID
        await stream.write(b"two")
        assert await stream.read(10) == b"TWO"
        other = await alice.open_stream(bob.peer_id, ECHO)
        await other.write(b"three")
        assert await other.read(10) == b"THREE"
        assert calls == [b"ONE"]


async def test_a_connection_that_breaks_ends_the_feeding() -> None:
    async with echoing() as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        heard = trio.Event()
        await stream.write(b"hello")
        async with trio.open_nursery() as nursery:

            async def feed() -> None:
                with pytest.raises(TetherError) as caught:
                    await stream.feed(lambda _: heard.set())
                assert caught.value.code is UNREACHABLE

            nursery.start_soon(feed)
            await heard.wait()
            await bob.disconnect(alice.peer_id)


async def test_who_stops_feeding_reads_on() -> None:
    async with echoing() as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        await stream.write(b"fed")
        with trio.CancelScope() as scope:
            await stream.feed(lambda data: scope.cancel() if data == b"FED" else None)
        assert scope.cancelled_caught
        await stream.write(b"read")
        assert await stream.read(10) == b"READ"
