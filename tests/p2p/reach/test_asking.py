"""Askers and answerers, honest, lying and hostile, over real sockets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import trio

from p2p.errors import TetherError
from p2p.host.addresses import TcpAddress
from p2p.host.apart import MAX_APART
from p2p.host.connection import Connection
from p2p.host.framing import Frames, framed
from p2p.host.paths import UNKNOWN_PATH
from p2p.host.reach import answering
from p2p.host.reach.answering import PEER_LIMIT, PRICE_BYTES, Answering
from p2p.host.reach.asking import Asking
from p2p.host.reach.messages import (
    DIAL_BACK,
    DIAL_REQUEST,
    MAX_BYTES,
    Data,
    DataRequest,
    DialRequest,
    DialResponse,
    DialStatus,
    Message,
    Status,
    read,
    write,
    write_nonce,
)
from p2p.host.streams import MuxedStream
from p2p.host.switch import Switch
from p2p.transport import Stream
from tests.p2p.hosts import until
from tests.p2p.reach.switches import closed_port, open_switches
from tests.swarms import make_swarm

STRANGER = "/ip4/11.255.0.1/tcp/4001"
OK = DialResponse(Status.OK, 0, DialStatus.OK)


async def asked(asker: Switch, answerer: Switch, *addresses: str) -> DialResponse:
    """A question as it comes, whoever asks it; what a dial costs is paid."""
    stream, _ = await asker.open(answerer.own, [DIAL_REQUEST])
    frames = Frames(stream, MAX_BYTES)
    await stream.write(framed(write(DialRequest(addresses, 7))))
    answer = read(await frames.one())
    if isinstance(answer, DataRequest):
        assert PRICE_BYTES[0] <= answer.size <= PRICE_BYTES[1]
        for _ in range(answer.size // 4096 + 1):
            await stream.write(framed(write(Data(bytes(4096)))))
        answer = read(await frames.one())
    assert isinstance(answer, DialResponse)
    await stream.reset()
    return answer


def answer_with(switch: Switch, *messages: Message, lie: Any = None) -> None:
    """A liar: does what lie does with the request, and says messages whatever was asked."""

    async def serve(stream: Stream) -> None:
        request = read(await Frames(stream, MAX_BYTES).one())
        assert isinstance(request, DialRequest)
        if lie is not None:
            await lie(stream.peer, request.nonce)
        for message in messages:
            await stream.write(framed(write(message)))

    switch.handle(DIAL_REQUEST, serve, guests=False)


async def test_a_dial_that_arrives_is_told_from_one_that_does_not() -> None:
    async with open_switches(make_swarm(2), 2) as (asker, answerer):
        asking, _ = Asking(asker), Answering(answerer, random.Random(1))
        assert await asking.ask(answerer.own, asker.bound()[0]) is True
        assert await asking.ask(answerer.own, closed_port(asker)) is False


async def test_the_dial_comes_from_another_socket_and_leaves_the_connection_as_it_was() -> None:
    async with open_switches(make_swarm(2), 2) as (asker, answerer):
        asking, _ = Asking(asker), Answering(answerer, random.Random(1))
        news: list[bool] = []
        for switch in (asker, answerer):
            switch.watch(lambda _peer, up: news.append(up))
        before = asker.path(answerer.own)
        hear, remotes = asker.apart.handlers[DIAL_BACK], []

        async def spy(stream: MuxedStream, connection: Connection) -> None:
            remotes.append(connection.path.remote)
            await hear(stream, connection)

        asker.apart.handlers[DIAL_BACK] = spy
        assert await asking.ask(answerer.own, asker.bound()[0])
        assert asker.path(answerer.own) == before and not news
        assert before is not None and len(remotes) == 1 and remotes[0] != before.remote


async def test_a_peer_that_does_not_speak_it_says_nothing() -> None:
    async with open_switches(make_swarm(2), 2) as (asker, answerer):
        assert await Asking(asker).ask(answerer.own, asker.bound()[0]) is None


@pytest.mark.parametrize(
    "messages",
    [
        [OK],
        [DialResponse(Status.OK, 1, DialStatus.DIAL_ERROR)],
        [DialResponse(Status.OK, 0, DialStatus.DIAL_BACK_ERROR)],
        [DialResponse(Status.REJECTED)],
        [DataRequest(0, 100_001), OK],
        [DataRequest(1, 30_000), OK],
        [DataRequest(0, 1), DataRequest(0, 1)],
        [Data(b"")],
        [DialRequest((), 1)],
        [],
    ],
    ids=lambda messages: " ".join(type(message).__name__ for message in messages) or "silence",
)
async def test_who_claims_a_dial_that_did_not_happen_is_not_believed(messages: Sequence[Message]) -> None:
    async with open_switches(make_swarm(2), 2) as (asker, liar):
        answer_with(liar, *messages)
        assert await Asking(asker).ask(liar.own, asker.bound()[0]) is None


async def test_a_number_said_over_the_standing_connection_or_by_another_peer_is_none() -> None:
    async with open_switches(make_swarm(3), 3) as (asker, liar, accomplice):
        tried: list[str] = []

        async def over_the_standing_one(peer: Any, nonce: int) -> None:
            tried.append("standing")
            with suppress(TetherError):
                stream, _ = await liar.open(peer, [DIAL_BACK])
                await stream.write(framed(write_nonce(nonce)))
                await stream.read(10)

        async def by_another(peer: Any, nonce: int) -> None:
            tried.append("another")
            with suppress(TetherError):
                async with accomplice.apart.dial(peer, asker.bound()[0]) as connection:
                    stream, _ = await connection.open_stream([DIAL_BACK])
                    await stream.write(framed(write_nonce(nonce)))
                    await stream.read(10)

        asking = Asking(asker)
        for lie in (over_the_standing_one, by_another):
            answer_with(liar, OK, lie=lie)
            assert await asking.ask(liar.own, asker.bound()[0]) is None
        assert tried == ["standing", "another"]


async def test_a_peer_that_reconnects_while_it_is_asked_is_let_in_again() -> None:
    async with open_switches(make_swarm(2), 2) as (asker, peer):

        async def echo(stream: Stream) -> None:
            await stream.write(await stream.read(100))

        asker.handle("/echo/1", echo, guests=False)
        with asker.apart.awaiting(peer.own):
            async with peer.apart.dial(asker.own, asker.bound()[0]) as connection:
                with suppress(TetherError):
                    stream, _ = await connection.open_stream(["/echo/1"])
                    await stream.read(1)
            assert not asker.apart.awaits(peer.own, connection.path)


async def test_nobody_is_dialled_who_did_not_ask_unless_it_is_paid_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answering, "MAX_PAUSE_S", 0.0)
    dialled: list[TcpAddress] = []
    async with open_switches(make_swarm(2), 2) as (asker, answerer):
        Answering(answerer, random.Random(1))

        def dial(peer: object, target: TcpAddress) -> Any:
            dialled.append(target)
            raise ConnectionRefusedError

        monkeypatch.setattr(answerer.apart, "dial", dial)
        for private in ("/ip4/10.1.2.3/tcp/22", "/ip4/127.0.0.9/tcp/22", "/ip6/fd00::1/tcp/22"):
            assert (await asked(asker, answerer, private)).status is Status.DIAL_REFUSED
        assert (await asked(asker, answerer, "/dns4/victim.example/tcp/80")).status is Status.DIAL_REFUSED
        assert (await asked(asker, answerer)).status is Status.DIAL_REFUSED
        assert not dialled
        assert (await asked(asker, answerer, STRANGER)).dial is DialStatus.DIAL_ERROR
        assert list(map(str, dialled)) == [STRANGER]


async def test_who_does_not_pay_has_nobody_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_switches(make_swarm(2), 2) as (asker, answerer):
        Answering(answerer, random.Random(1))
        monkeypatch.setattr(answerer.apart, "dial", lambda *_: pytest.fail("it dials"))
        payments: list[list[Message]] = [
            [Data(bytes(4000))] * 3,
            [Data(b"")],
            [DialRequest((STRANGER,), 1)],
        ]
        for payment in payments:
            stream, _ = await asker.open(answerer.own, [DIAL_REQUEST])
            await stream.write(framed(write(DialRequest((STRANGER,), 1))))
            frames = Frames(stream, MAX_BYTES)
            assert isinstance(read(await frames.one()), DataRequest)
            for piece in payment:
                await stream.write(framed(write(piece)))
            await stream.close()
            with pytest.raises(TetherError):
                await frames.one()


async def test_a_storm_of_requests_is_bounded_in_dials_at_a_time_and_in_all() -> None:
    async with open_switches(make_swarm(2), 2) as (asker, answerer):
        Answering(answerer, random.Random(1))
        address, answers = str(closed_port(asker)), []

        async def ask() -> None:
            answers.append((await asked(asker, answerer, address)).status)

        for _ in range(4):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask)
        for _ in range(40):
            await ask()
        assert 1 <= answers.count(Status.OK) <= PEER_LIMIT + 1
        assert answers[-1] is Status.REJECTED and answerer.connected(asker.own)


async def test_connections_beside_the_standing_one_are_few() -> None:
    async with open_switches(make_swarm(2), 2) as (asker, peer), AsyncExitStack() as stack:
        before = asker.path(peer.own)
        stack.enter_context(asker.apart.awaiting(peer.own))
        for _ in range(MAX_APART):
            await stack.enter_async_context(peer.apart.dial(asker.own, asker.bound()[0]))
        await until(lambda: not asker.apart.awaits(peer.own, before or UNKNOWN_PATH))
        assert asker.path(peer.own) == before
