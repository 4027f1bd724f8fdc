"""Streams over real sockets: order, pauses, limits, and calls that outlive their connection."""

from __future__ import annotations

import os

import psutil
import pytest
import trio
import trio.testing

from p2p.errors import FIELD_INVALID, UNREACHABLE, TetherError
from p2p.host.negotiate import exchange as exchange_of
from p2p.host.streams import MuxedStream
from p2p.host.yamux.flow import Flow
from p2p.host.yamux.muxer import Muxer
from p2p.host.yamux.session import Session
from p2p.messages import Ack, Announcement, Envelope, Method
from p2p.rpc import Rpc, ServerCall
from p2p.transport import Stream
from tests.p2p.hosts import address, echo, open_nodes, until
from tests.swarms import make_swarm

ECHO = "/tether/echo/1"


def sockets() -> int:
    return len(psutil.Process(os.getpid()).net_connections("tcp"))


def sockets_are(count: int) -> bool:
    return sockets() == count


async def exchange(stream: Stream, data: bytes) -> bytes:
    received = b""
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.write(data)
            await stream.close()

        nursery.start_soon(send)
        while part := await stream.read(65_536):
            received += part
    return received


async def wait_for_a_byte(stream: Stream) -> None:
    await stream.read(1)


async def test_streams_carry_bytes_in_order_both_ways_whoever_dialled() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        for host in (alice, bob):
            host.handle(ECHO, echo)
        await alice.connect(address(bob))
        for opener, other in ((alice, bob), (bob, alice)):
            stream = await opener.open_stream(other.peer_id, ECHO)
            data = os.urandom(1).hex().encode() * 1_000_000
            assert await exchange(stream, data) == data.upper()
            assert stream.peer == other.peer_id


async def test_a_hundred_streams_at_once_do_not_mix() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        bob.handle(ECHO, echo)
        await alice.connect(address(bob))
        answers: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            stream = await alice.open_stream(bob.peer_id, ECHO)
            answers[number] = await exchange(stream, b"%d," % number * 1_000)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, number)
        assert answers == {number: b"%d," % number * 1_000 for number in range(100)}


async def test_far_more_streams_than_a_connection_holds_open_pass_one_after_the_other() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        bob.handle(ECHO, echo)
        await alice.connect(address(bob))
        for number in range(300):
            assert await exchange(await alice.open_stream(bob.peer_id, ECHO), b"a") == b"A", number


async def test_a_reader_that_pauses_loses_nothing_and_holds_up_its_own_stream_only() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        go_on = trio.Event()
        received = 0

        async def slow(stream: Stream) -> None:
            nonlocal received
            await go_on.wait()
            while data := await stream.read(65_536):
                received += len(data)

        bob.handle("/slow/1", slow)
        bob.handle(ECHO, echo)
        await alice.connect(address(bob))
        held = await alice.open_stream(bob.peer_id, "/slow/1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(held.write, bytes(2_000_000))
            assert await exchange(await alice.open_stream(bob.peer_id, ECHO), b"hi") == b"HI"
            assert received == 0
            go_on.set()
        await held.close()
        await until(lambda: received == 2_000_000)


async def test_a_write_that_is_cancelled_leaves_the_connection_whole() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):

        async def never(stream: Stream) -> None:
            await trio.sleep_forever()

        bob.handle("/never/1", never)
        bob.handle(ECHO, echo)
        await alice.connect(address(bob))
        stream = await alice.open_stream(bob.peer_id, "/never/1")
        with trio.move_on_after(0.2):
            await stream.write(bytes(8_000_000))
        await stream.reset()
        assert await exchange(await alice.open_stream(bob.peer_id, ECHO), b"still") == b"STILL"


async def test_a_protocol_that_nobody_handles_is_said_to_be_missing() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        await alice.connect(address(bob))
        with pytest.raises(TetherError) as error:
            await alice.open_stream(bob.peer_id, "/tether/nothing/1")
        assert error.value.code is UNREACHABLE
        assert "does not offer" in error.value.detail
        assert alice.peers() == {bob.peer_id}


async def test_a_handler_that_fails_with_a_peers_fault_breaks_its_stream_alone() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):

        async def refuse(stream: Stream) -> None:
            raise TetherError(FIELD_INVALID, "No.")

        bob.handle("/refuse/1", refuse)
        await alice.connect(address(bob))
        stream = await alice.open_stream(bob.peer_id, "/refuse/1")
        with pytest.raises(TetherError):
            await stream.read(1)
        await alice.open_stream(bob.peer_id, "/refuse/1")


async def test_one_stream_too_many_is_an_error_and_not_a_hang() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        bob.handle("/wait/1", wait_for_a_byte)
        await alice.connect(address(bob))
        await until(lambda: bool(bob.peers()))
        streams: list[Stream] = []
        with pytest.raises(TetherError) as error:
            while len(streams) < 300:
                streams.append(await alice.open_stream(bob.peer_id, "/wait/1"))
        assert error.value.code is UNREACHABLE
        assert len(streams) > 100
        await streams.pop().reset()
        await alice.open_stream(bob.peer_id, "/wait/1")


async def test_a_call_goes_on_over_a_connection_that_was_made_anew() -> None:
    """rpc's promise, over real sockets: numbered bytes and a dial of its own."""
    swarm = make_swarm(2)
    count = Method("count", Ack, Announcement)
    async with open_nodes(swarm, 2) as (alice, bob), trio.open_nursery() as nursery:
        asker, answerer = Rpc(alice), Rpc(bob)
        go_on = trio.Event()

        async def numbers(call: ServerCall[Ack, Announcement]) -> None:
            for number in range(20):
                if number == 10:
                    await go_on.wait()
                await call.send(Announcement(Envelope("t", b"%d" % number, bob.peer_id, 0, 0, 0.0, 0.0), b""))

        answerer.serve_stream(count, numbers)
        await nursery.start(asker.run)
        await nursery.start(answerer.run)
        await alice.connect(address(bob))
        received: list[bytes] = []
        async with asker.stream(bob.peer_id, count, Ack()) as answers:
            async for answer in answers:
                received.append(answer.envelope.payload)
                if len(received) == 10:
                    await bob.disconnect(alice.peer_id)
                    go_on.set()
        assert received == [b"%d" % number for number in range(20)]
        nursery.cancel_scope.cancel()


async def test_a_reader_that_comes_first_leaves_the_writing_to_the_writer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy connection: the proposal of a protocol that is taken for granted waits for the socket."""
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        bob.handle(ECHO, echo)
        await alice.connect(address(bob))
        assert await exchange(await alice.open_stream(bob.peer_id, ECHO), b"agreed") == b"AGREED"
        stream = await alice.open_stream(bob.peer_id, ECHO)
        assert isinstance(stream, MuxedStream)
        received: list[bytes] = []

        async def read() -> None:
            while part := await stream.read(1_000):
                received.append(part)

        async def write() -> None:
            await stream.write(b"hello")
            await stream.close()

        async with trio.open_nursery() as nursery:
            with monkeypatch.context() as busy:
                busy.setattr(Muxer, "flush", lambda _: None)
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(write)
                await trio.testing.wait_all_tasks_blocked()
            stream._muxer.flush()
        assert b"".join(received) == b"HELLO"


async def test_who_opens_a_stream_learns_that_it_is_spoken_though_the_handler_keeps_silent() -> None:
    async with open_nodes(make_swarm(2), 2) as (alice, bob):
        begun = trio.Event()

        async def keep_silent(_: Stream) -> None:
            begun.set()
            await trio.sleep_forever()

        bob.handle(ECHO, keep_silent)
        await alice.connect(address(bob))
        with trio.fail_after(5):
            await alice.open_stream(bob.peer_id, ECHO)
            await begun.wait()


async def test_an_agreement_leaves_with_the_answer_to_what_came_behind_the_proposal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_nodes(make_swarm(2), 2) as (alice, bob):
        answered = trio.Event()

        async def answer(stream: Stream) -> None:
            await stream.write(b"to " + await stream.read(100))
            answered.set()

        bob.handle(ECHO, answer)
        await alice.connect(address(bob))
        await alice.open_stream(bob.peer_id, ECHO)
        offered: list[bytes] = []
        offer = Session.offer

        def noted(session: Session, flow: Flow, data: memoryview) -> None:
            if ECHO.encode() in bytes(data):
                offered.append(bytes(data))
            offer(session, flow, data)

        monkeypatch.setattr(Session, "offer", noted)
        stream = await alice.open_stream(bob.peer_id, ECHO)
        await stream.write(b"hello")
        await answered.wait()
        assert await stream.read(100) == b"to hello"
        assert offered == [exchange_of(ECHO) + b"hello", exchange_of(ECHO) + b"to hello"]
