"""js-libp2p from npm as a stranger's peer: it dials us and is dialled, and everything that we speak, it understands."""

from __future__ import annotations

import hashlib
import os
from typing import Final

import pytest
import trio

from p2p.host.host import Host
from p2p.transport import Gossip, PeerAddress, Stream
from p2p.values import MANIFESTS, ContentAddressed, value_key
from tests.interop.conftest import KAD, JsPeer, open_to_all
from tests.interop.recorder import noise_messages, recorder
from tests.p2p.hosts import address, until

BULK: Final = "/tether/interop-bulk/1"
ECHO: Final = "/tether/interop-echo/1"
PING: Final = "/ipfs/ping/1.0.0"
MEGABYTES: Final = 64
BLOCK: Final = 1024 * 1024
PASSPORT: Final = os.urandom(1_200)
"""As long as a real one: a certificate with its issuer's."""


async def echo(stream: Stream) -> None:
    while data := await stream.read(1_000):
        await stream.write(data)


async def digest(stream: Stream) -> None:
    seen = hashlib.sha256()
    while data := await stream.read(BLOCK):
        seen.update(data)
    await stream.write(seen.hexdigest().encode())


async def whole(stream: Stream) -> bytes:
    parts = []
    while part := await stream.read(BLOCK):
        parts.append(part)
    return b"".join(parts)


async def test_javascript_dials_us_past_a_passport_that_it_does_not_know(js: JsPeer) -> None:
    async with open_to_all(passport=PASSPORT) as host:
        host.handle(ECHO, echo)
        assert await js.dial(host) == {"encryption": "/noise", "multiplexer": "/yamux/1.0.0"}
        assert host.peers() == {js.at.peer}
        assert await js.ask("echo", peer=host.peer_id, text="hello") == {"text": "hello"}


async def test_we_dial_javascript_which_shows_no_passport(js: JsPeer) -> None:
    async with open_to_all(passport=PASSPORT) as host:
        await host.connect(js.at)
        stream = await host.open_stream(js.at.peer, ECHO)
        await stream.write(b"hello")
        await stream.close()
        assert await whole(stream) == b"hello"


async def test_a_passport_takes_part_in_the_handshake_and_adds_no_message_to_it(js: JsPeer) -> None:
    for passport in (b"", PASSPORT):
        async with open_to_all(passport=passport) as host, recorder(host.addresses()[0]) as seen:
            await js.ask("dial", address=f"{seen.address}/p2p/{host.peer_id}")
            first, third = noise_messages(seen.up, dialler=True)
            (second,) = noise_messages(seen.down, dialler=False)
            assert (first, third < 300) == (32, True)
            assert second - len(passport) in range(150, 300)
        async with open_to_all(passport=passport) as host, recorder(js.at.addresses[0]) as seen:
            await host.connect(PeerAddress(js.at.peer, (seen.address,)))
            first, third = noise_messages(seen.up, dialler=True)
            assert (first, third - len(passport) in range(150, 300)) == (32, True)


async def test_each_side_answers_the_others_ping(js: JsPeer) -> None:
    async with open_to_all() as host:
        await js.dial(host)
        assert (await js.ask("ping", peer=host.peer_id))["ms"] >= 0
        stream = await host.open_stream(js.at.peer, PING)
        payload = os.urandom(32)
        await stream.write(payload)
        await stream.close()
        assert await whole(stream) == payload


async def test_each_side_identifies_the_other(js: JsPeer) -> None:
    async with open_to_all() as host:
        await js.dial(host)
        seen = await js.ask("identified", peer=host.peer_id)
        assert {KAD, "/meshsub/1.1.0", PING} <= set(seen["protocols"])
        assert seen["addresses"] == list(host.addresses())
        assert seen["agent"] == "tether"
        await until(lambda: host._switch.book.of(js.at.peer) == js.at.addresses)


async def test_gossip_goes_both_ways_whoever_joins_first(js: JsPeer) -> None:
    async with open_to_all() as host:
        await js.dial(host)
        await js.ask("subscribe", topic="news")
        async with host.subscribe("news", lambda _gossip: True) as news:
            await js.ask("meshed", topic="news", peer=host.peer_id)
            for number in range(5):
                await js.ask("publish", topic="news", data=f"from there {number}")
            with trio.fail_after(10):
                heard = [await news.receive() for _ in range(5)]
            assert heard == [Gossip("news", f"from there {n}".encode(), js.at.peer) for n in range(5)]
            for number in range(5):
                await host.publish("news", f"from here {number}".encode())
            messages = (await js.ask("heard", topic="news", count=5))["messages"]
            assert sorted(one["data"] for one in messages) == [f"from here {n}" for n in range(5)]
            assert {one["from"] for one in messages} == {host.peer_id}


async def test_what_javascript_provides_we_keep_and_find(js: JsPeer) -> None:
    async with open_to_all() as keeper, open_to_all() as asker:
        await js.dial(keeper)
        key = os.urandom(32)
        kept = await js.ask("provide", digest=key.hex(), peers=[keeper.peer_id])
        assert keeper.peer_id in kept["kept"]
        await asker.connect(address(keeper))
        assert await asker.find_providers(key) == (js.at,)


async def test_what_we_provide_javascript_finds(js: JsPeer) -> None:
    async with open_to_all() as host:
        await host.connect(js.at)
        await js.ask("identified", peer=host.peer_id)
        key = os.urandom(32)
        await host.provide(key)
        assert await js.ask("find", digest=key.hex()) == {"found": {host.peer_id: list(host.addresses())}}


async def test_our_nodes_meet_through_a_dht_that_is_javascripts(js: JsPeer) -> None:
    async with open_to_all() as alice, open_to_all() as bob:
        for host in (alice, bob):
            await host.connect(js.at)
        key = os.urandom(32)
        await alice.provide(key)
        assert [one.peer for one in await bob.find_providers(key)] == [alice.peer_id]


async def test_values_go_both_ways_and_each_side_checks_them(js: JsPeer) -> None:
    async with open_to_all() as keeper, open_to_all() as reader:
        for host in (keeper, reader):
            host.accept_values(MANIFESTS, ContentAddressed())
        await js.dial(keeper)
        await reader.connect(address(keeper))
        theirs, ours = (os.urandom(8).hex() for _ in range(2))
        kept = await js.ask("putValue", key=_manifest(theirs), value=theirs, peers=[keeper.peer_id])
        assert keeper.peer_id in kept["kept"]
        assert await reader.get_value(_manifest(theirs)) == theirs.encode()
        await keeper.put_value(_manifest(ours), ours.encode())
        assert (await js.ask("getValue", key=_manifest(ours)))["value"] == ours
        reader.forget_value(_manifest(ours))
        await reader.connect(js.at)
        await until(lambda: js.at.peer in reader._dht._table)
        await keeper.disconnect(reader.peer_id)
        assert await reader.get_value(_manifest(ours)) == ours.encode()


def _manifest(value: str) -> str:
    return value_key(MANIFESTS, hashlib.sha256(value.encode()).hexdigest())


@pytest.mark.parametrize("dialler", ["javascript", "tether"])
async def test_64_megabytes_arrive_intact_in_both_directions(js: JsPeer, dialler: str) -> None:
    async with open_to_all() as host:
        host.handle(BULK, digest)
        await (js.dial(host) if dialler == "javascript" else host.connect(js.at))
        theirs = await js.ask("send", peer=host.peer_id, megabytes=MEGABYTES)
        assert theirs["received"] == theirs["sent"]
        sent, received = await _send(host, js)
        assert received == sent


async def _send(host: Host, js: JsPeer) -> tuple[str, str]:
    stream = await host.open_stream(js.at.peer, BULK)
    seen = hashlib.sha256()
    for _ in range(MEGABYTES):
        block = os.urandom(BLOCK)
        seen.update(block)
        await stream.write(block)
    await stream.close()
    return seen.hexdigest(), (await whole(stream)).decode()
