"""The host's pure parts: addresses, negotiation, frames."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import FIELD_INVALID, TetherError
from p2p.host.addresses import (
    MAX_ADDRESSES,
    AddressBook,
    TcpAddress,
    announced,
    dialable,
    from_wire,
    parse,
    to_wire,
)
from p2p.host.errors import HOSTILE_BYTES
from p2p.host.framing import Frames, framed
from p2p.host.interfaces import own_ips
from p2p.host.negotiate import Holding, answer, ask
from p2p.identity import PeerId
from p2p.pipe import pipe
from p2p.transport import Stream

A, B = PeerId("A"), PeerId("B")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("/ip4/192.0.2.1/tcp/4001", TcpAddress("ip4", "192.0.2.1", 4001)),
        ("/ip6/2001:db8::1/tcp/1", TcpAddress("ip6", "2001:db8::1", 1)),
        ("/dns4/node.example/tcp/65535", TcpAddress("dns4", "node.example", 65535)),
        ("/ip4/0.0.0.0/tcp/0", TcpAddress("ip4", "0.0.0.0", 0)),
        ("/ip4/192.0.2.1/tcp/4001/p2p/12D3KooW", TcpAddress("ip4", "192.0.2.1", 4001)),
    ],
)
def test_an_address_is_read(text: str, read: TcpAddress) -> None:
    assert parse(text) == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "ip4/192.0.2.1/tcp/1",
        "/ip4/192.0.2.1/udp/1",
        "/ip4/192.0.2.1/tcp/65536",
        "/ip4/192.0.2.1/tcp/-1",
        "/ip4/192.0.2.1/tcp/+1",
        "/ip4/192.0.2.1/tcp/٣",
        "/ip4/2001:db8::1/tcp/1",
        "/ip6/192.0.2.1/tcp/1",
        "/dns4//tcp/1",
        "/ip4/192.0.2.1/tcp/1/ws",
        "/ip4/192.0.2.1/tcp/1/p2p/a/p2p-circuit",
    ],
)
def test_what_is_no_tcp_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(TetherError) as error:
        parse(text)
    assert error.value.code is FIELD_INVALID


@given(st.text(max_size=60) | st.from_regex(r"/(ip4|ip6|dns)/[0-9a-f.:]{1,12}/tcp/[0-9]{1,6}"))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        address = parse(text)
    except TetherError as error:
        assert error.code is FIELD_INVALID
    else:
        assert parse(str(address)) == address


def test_only_what_can_be_dialled_is_kept_each_once() -> None:
    good = "/ip4/192.0.2.1/tcp/1"
    assert dialable([good, good + "/p2p/x", "/ip4/0.0.0.0/tcp/1", "/ip4/192.0.2.1/tcp/0", "junk"]) == [good]


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_addresses_on_the_wire_are_hostile(raw: list[bytes]) -> None:
    assert len(from_wire(raw)) <= MAX_ADDRESSES


def test_addresses_pass_the_wire() -> None:
    texts = ["/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/tcp/65535", "/dns4/node.example/tcp/80"]
    assert from_wire(to_wire(texts)) == texts


def test_a_wildcard_stands_for_the_interfaces_with_the_port_that_was_bound() -> None:
    told = announced([TcpAddress("ip4", "0.0.0.0", 4001)], own_ips())
    assert told
    assert all(parse(one).port == 4001 and not parse(one).ip.is_unspecified for one in told)  # type: ignore[union-attr]
    exact = TcpAddress("ip4", "127.0.0.1", 5)
    assert announced([exact], own_ips()) == ("/ip4/127.0.0.1/tcp/5",)


def test_the_book_says_first_what_worked_then_what_the_peer_says_then_hearsay() -> None:
    book = AddressBook()
    book.learn(A, ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1"])
    book.said(A, ["/ip4/192.0.2.3/tcp/1", "/ip4/192.0.2.2/tcp/1"])
    book.worked(A, "/dns4/node.example/tcp/1")
    assert book.of(A) == (
        "/dns4/node.example/tcp/1",
        "/ip4/192.0.2.3/tcp/1",
        "/ip4/192.0.2.2/tcp/1",
        "/ip4/192.0.2.1/tcp/1",
    )
    assert book.of(B) == ()


def test_hearsay_neither_fills_the_book_nor_displaces_what_is_known_better() -> None:
    book = AddressBook()
    book.said(A, ["/ip4/192.0.2.9/tcp/1"])
    for number in range(1, 200):
        book.learn(A, [f"/ip4/192.0.2.1/tcp/{number}"])
    assert book.of(A)[:2] == ("/ip4/192.0.2.9/tcp/1", "/ip4/192.0.2.1/tcp/199")
    assert len(book.of(A)) <= MAX_ADDRESSES


class Held(Holding):
    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    async def close(self) -> None:
        await self._stream.close()

    async def _send(self, data: bytes) -> None:
        await self._stream.write(data)

    async def _receive(self) -> bytes:
        return await self._stream.read(1000)


@pytest.mark.parametrize(
    ("wanted", "offered", "agreed"),
    [
        (["/a"], ["/a"], "/a"),
        (["/a", "/b"], ["/b"], "/b"),
        (["/a"], ["/b"], None),
        (["/" + "x" * 200], [], None),
    ],
)
async def test_two_sides_agree_on_a_protocol_or_find_that_there_is_none(
    wanted: list[str], offered: list[str], agreed: str | None
) -> None:
    ours, theirs = (Held(end) for end in pipe(A, B))
    results: list[str] = []
    faults: list[BaseException] = []

    async def asking() -> None:
        try:
            results.append(await ask(ours, wanted))
        except HOSTILE_BYTES as error:
            faults.append(error)
        await ours.close()

    async def answering() -> None:
        try:
            results.append(await answer(theirs, offered))
            await theirs.let_go()
        except HOSTILE_BYTES as error:
            faults.append(error)
        await theirs.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asking)
        nursery.start_soon(answering)
    assert results == ([agreed, agreed] if agreed else [])
    assert len(faults) == (0 if agreed else 2)


@given(st.binary(max_size=400))
async def test_any_bytes_are_a_negotiation_or_a_peers_fault(data: bytes) -> None:
    for side in (ask, answer):
        ours, theirs = pipe(A, B)
        await theirs.write(data)
        await theirs.close()
        with suppress(*HOSTILE_BYTES):
            assert await side(Held(ours), ["/a"]) == "/a"


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 50))
async def test_frames_come_back_as_they_were_however_they_were_cut(frames: list[bytes], cut: int) -> None:
    ours, theirs = pipe(A, B)
    data = b"".join(framed(frame) for frame in frames)
    for start in range(0, len(data), cut):
        await theirs.write(data[start : start + cut])
    await theirs.close()
    reader = Frames(ours, 300)
    received = []
    while (frame := await reader.next()) is not None:
        received.append(frame)
    assert received == frames


@given(st.binary(max_size=400))
async def test_any_bytes_are_frames_or_a_peers_fault(data: bytes) -> None:
    ours, theirs = pipe(A, B)
    await theirs.write(data)
    await theirs.close()
    reader = Frames(ours, 100)
    try:
        while (frame := await reader.next()) is not None:
            assert len(frame) <= 100
    except TetherError as error:
        assert error.code.name in ("FRAME_INVALID", "FRAME_TOO_LARGE")
