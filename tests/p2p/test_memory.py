"""The network in one process keeps the promises of `p2p.transport`, and its faults are faults."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from p2p.errors import CERTIFICATE_INVALID, FIELD_INVALID, UNREACHABLE, TetherError
from p2p.identity import PeerId
from p2p.membership import Guest
from p2p.memory import MemoryNetwork
from p2p.transport import Gossip, PeerAddress, Stream
from p2p.values import ContentAddressed, value_key
from tests.p2p.nodes import A, B, C, D, address, admit, guest, member

KEY = b"k" * 32


async def echo(stream: Stream) -> None:
    while data := await stream.read(1000):
        await stream.write(data.upper())
    await stream.close()


def refused_with(error: pytest.ExceptionInfo[TetherError], *, word: str) -> bool:
    return error.value.code is UNREACHABLE and word in error.value.detail


async def test_a_stream_carries_bytes_in_order_both_ways_and_ends_when_closed() -> None:
    world = MemoryNetwork()
    alice, bob = member(world, A), member(world, B)
    bob.handle("/echo/1", echo)
    await alice.connect(address(bob))
    stream = await alice.open_stream(B, "/echo/1")
    await stream.write(b"hel")
    await stream.write(b"lo")
    await stream.close()
    received = b""
    while data := await stream.read(2):
        received += data
    assert (received, stream.peer) == (b"HELLO", B)


async def test_a_writer_waits_for_its_reader_once_the_buffer_is_full(autojump_clock: MockClock) -> None:
    world = MemoryNetwork()
    alice, bob = member(world, A), member(world, B)
    received = 0

    async def slow(stream: Stream) -> None:
        nonlocal received
        await trio.sleep(60)
        while data := await stream.read(100_000):
            received += len(data)

    bob.handle("/slow/1", slow)
    await alice.connect(address(bob))
    stream = await alice.open_stream(B, "/slow/1")
    start = trio.current_time()
    await stream.write(bytes(1_000_000))
    assert trio.current_time() - start >= 60
    await stream.close()
    await trio.testing.wait_all_tasks_blocked()
    assert received == 1_000_000


async def test_a_delay_holds_every_byte_back_and_keeps_their_order(autojump_clock: MockClock) -> None:
    world = MemoryNetwork(delay_s=0.1)
    alice, bob = member(world, A), member(world, B)
    bob.handle("/echo/1", echo)
    await alice.connect(address(bob))
    stream = await alice.open_stream(B, "/echo/1")
    start = trio.current_time()
    await stream.write(b"a")
    assert await stream.read(1) == b"A"
    assert trio.current_time() - start == pytest.approx(0.2)


async def test_who_fails_the_gate_does_not_get_in_and_who_is_refused_learns_why() -> None:
    world = MemoryNetwork()
    bob, stranger = member(world, B), world.node(C, lambda: b"junk", admit)
    with pytest.raises(TetherError) as refusal:
        await stranger.connect(address(bob))
    assert refusal.value.code is CERTIFICATE_INVALID
    assert not world.connected(B, C)


async def test_a_guest_reaches_the_guests_protocols_and_is_nobody_s_peer() -> None:
    world = MemoryNetwork()
    bob, carol = member(world, B), guest(world, C)
    ups: list[tuple[PeerId, bool]] = []
    bob.watch(lambda peer, up: ups.append((peer, up)))
    bob.handle("/echo/1", echo)
    bob.handle("/enrol/1", echo, guests=True)
    await carol.connect(address(bob))
    stream = await carol.open_stream(B, "/enrol/1")
    await stream.write(b"x")
    assert await stream.read(1) == b"X"
    with pytest.raises(TetherError) as refusal:
        await carol.open_stream(B, "/echo/1")
    assert refused_with(refusal, word="offer")
    assert (bob.peers(), ups) == (frozenset(), [])
    assert isinstance(bob.admission(C), Guest)
    assert carol.peers() == {B}


async def test_a_cut_breaks_streams_and_dials_until_it_is_healed_and_watchers_are_told() -> None:
    world = MemoryNetwork()
    alice, bob = member(world, A), member(world, B)
    seen: list[tuple[PeerId, bool]] = []
    alice.watch(lambda peer, up: seen.append((peer, up)))
    bob.handle("/echo/1", echo)
    await alice.connect(address(bob))
    stream = await alice.open_stream(B, "/echo/1")
    world.cut(A, B)
    for use in (stream.read(1), stream.write(b"x"), alice.connect(address(bob))):
        with pytest.raises(TetherError) as broken:
            await use
        assert broken.value.code is UNREACHABLE
        assert "refused" not in broken.value.detail
    world.heal(A, B)
    await alice.open_stream(B, "/echo/1")
    assert seen == [(B, True), (B, False), (B, True)]


async def test_a_killed_node_refuses_dials_loses_its_handlers_and_may_come_back_at_its_address() -> None:
    world = MemoryNetwork()
    alice, bob = member(world, A), member(world, B)
    ended = trio.Event()

    async def forever(stream: Stream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    bob.handle("/forever/1", forever)
    await alice.connect(address(bob))
    await alice.open_stream(B, "/forever/1")
    await trio.testing.wait_all_tasks_blocked()
    world.kill(B)
    await ended.wait()
    with pytest.raises(TetherError) as refusal:
        await alice.connect(PeerAddress(B))
    assert refused_with(refusal, word="refused")
    again = member(world, B)
    assert again.addresses() == bob.addresses()
    await alice.connect(PeerAddress(B))
    assert alice.peers() == {B}


async def test_an_unknown_peer_cannot_be_dialled_without_an_address() -> None:
    world = MemoryNetwork()
    alice = member(world, A)
    member(world, B)
    with pytest.raises(TetherError) as refusal:
        await alice.connect(PeerAddress(B))
    assert refused_with(refusal, word="address")


async def test_providers_are_found_through_others_but_not_across_a_partition() -> None:
    world = MemoryNetwork()
    alice, bob, carol, dora = (member(world, peer) for peer in (A, B, C, D))
    await alice.connect(address(bob))
    await carol.connect(address(bob))
    await carol.provide(KEY)
    await alice.provide(KEY)
    with pytest.raises(TetherError):
        await dora.provide(KEY)
    assert await alice.find_providers(KEY) == (address(carol),)
    assert await alice.find_peer(C) == address(carol)
    await alice.connect(PeerAddress(C))
    world.cut(A, C)
    world.cut(B, C)
    assert await alice.find_providers(KEY) == ()
    assert await alice.find_peer(D) is None
    world.kill(C)
    assert [found.peer for found in await bob.find_providers(KEY)] == [A]


async def test_values_are_kept_by_others_and_read_by_whoever_knows_their_namespace() -> None:
    world = MemoryNetwork()
    alice, bob, carol, dora = (member(world, peer) for peer in (A, B, C, D))
    for node in (alice, bob, carol):
        node.accept_values("content", ContentAddressed())
        await node.connect(address(dora))
    key = value_key("content", hashlib.sha256(b"value").hexdigest())
    await alice.put_value(key, b"value")
    alice.forget_value(key)
    world.kill(A)
    assert await carol.get_value(key) == b"value"
    assert await carol.get_value("/content/other") is None
    for call in (carol.put_value(key, b"false"), dora.get_value(key)):
        with pytest.raises(TetherError) as refusal:
            await call
        assert refusal.value.code is FIELD_INVALID


async def gather(channel: trio.MemoryReceiveChannel[Gossip]) -> list[Gossip]:
    await trio.testing.wait_all_tasks_blocked()
    heard = []
    while channel.statistics().current_buffer_used:
        heard.append(channel.receive_nowait())
    return heard


def always(verdict: bool) -> Callable[[Gossip], bool]:
    return lambda gossip: verdict


async def test_gossip_travels_through_subscribers_that_believe_it() -> None:
    world = MemoryNetwork()
    alice, bob, carol = (member(world, peer) for peer in (A, B, C))
    await alice.connect(address(bob))
    await bob.connect(address(carol))
    async with carol.subscribe("t", always(True)) as at_carol:
        await alice.publish("t", b"nobody between")
        assert await gather(at_carol) == []
        async with bob.subscribe("t", always(True)) as at_bob:
            await alice.publish("t", b"news")
            assert await gather(at_bob) == [Gossip("t", b"news", A)]
            assert await gather(at_carol) == [Gossip("t", b"news", B)]
        async with bob.subscribe("t", always(False)) as at_bob:
            await alice.publish("t", b"forged")
            assert await gather(at_bob) == await gather(at_carol) == []
            assert bob.rejected[A] == 1


async def test_a_subscriber_that_lags_loses_the_oldest_news() -> None:
    world = MemoryNetwork()
    alice, bob = member(world, A), member(world, B)
    await alice.connect(address(bob))
    async with bob.subscribe("t", always(True)) as at_bob:
        for n in range(300):
            await alice.publish("t", b"%d" % n)
            await trio.testing.wait_all_tasks_blocked()
        heard = await gather(at_bob)
    assert [gossip.data for gossip in heard] == [b"%d" % n for n in range(44, 300)]
