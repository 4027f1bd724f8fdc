"""Values over real hosts: put, read from several, checked on both sides."""

from __future__ import annotations

import hashlib

import pytest
import trio

from p2p.errors import FIELD_INVALID, UNREACHABLE, TetherError
from p2p.host.host import Host
from p2p.host.kad.messages import PUT_VALUE, Note
from p2p.transport import Network
from p2p.values import MAX_VALUE_BYTES, ContentAddressed, value_key
from tests.p2p.hosts import address, open_node, open_nodes, until
from tests.swarms import make_swarm


class Numbered:
    """A namespace whose values are numbers, the higher the newer."""

    final = False

    def rank(self, _name: str, value: bytes) -> int | None:
        return int(value) if value.isdigit() else None


def accept(*nodes: Network) -> None:
    for node in nodes:
        node.accept_values("content", ContentAddressed())
        node.accept_values("number", Numbered())


def content(value: bytes) -> str:
    return value_key("content", hashlib.sha256(value).hexdigest())


def held(host: Host, key: str) -> bytes | None:
    return host._dht.values.held(key.encode())


async def join(host: Host, first: Host) -> None:
    """Connect, and wait until the first one can tell others where this one is."""
    await host.connect(address(first))
    await until(lambda: bool(first._switch.book.of(host.peer_id)))


async def star(hosts: list[Host]) -> None:
    accept(*hosts)
    for host in hosts[1:]:
        await join(host, hosts[0])


async def test_a_large_value_is_found_by_a_node_that_knows_only_the_bootstrap() -> None:
    swarm = make_swarm(4)
    async with open_nodes(swarm, 4) as hosts:
        await star(hosts)
        value = bytes(range(256)) * (MAX_VALUE_BYTES // 256)
        await hosts[1].put_value(content(value), value)
        assert await hosts[3].get_value(content(value)) == value
        assert await hosts[3].get_value(content(b"another")) is None


async def test_the_network_is_asked_although_this_node_holds_a_value() -> None:
    swarm = make_swarm(4)
    async with open_nodes(swarm, 4) as hosts:
        await star(hosts)
        key = value_key("number", "clock")
        await hosts[1].put_value(key, b"1")
        assert held(hosts[2], key) == b"1"
        for host in hosts[:2]:
            host._dht.values._store.put(key.encode(), b"2", None, trio.current_time())
        assert await hosts[2].get_value(key) == b"2"
        await until(lambda: held(hosts[3], key) == b"2")


async def test_an_older_value_does_not_take_a_newer_ones_place() -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 3) as hosts:
        await star(hosts)
        key = value_key("number", "clock")
        await hosts[1].put_value(key, b"7")
        with pytest.raises(TetherError) as error:
            await hosts[2].put_value(key, b"6")
        assert error.value.code is UNREACHABLE
        assert held(hosts[0], key) == b"7"
        assert await hosts[2].get_value(key) == b"7"


async def test_who_lacks_a_value_is_given_it_by_who_reads_it() -> None:
    """A read ends with the first answer that holds, so who is slower with its own is given it by another read."""
    swarm = make_swarm(4)
    async with open_nodes(swarm, 3) as hosts:
        await star(hosts)
        value = b"manifest"
        await hosts[1].put_value(content(value), value)
        hosts[0]._dht.values._store.drop(content(value).encode())
        assert await hosts[2].get_value(content(value)) == value
        async with open_node(swarm, 3) as late:
            accept(late)
            await join(late, hosts[0])
            while held(hosts[0], content(value)) != value:
                assert await late.get_value(content(value)) == value
                await trio.sleep(0.01)


async def test_what_does_not_hold_is_neither_put_nor_kept_nor_believed() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        await star([alice, bob])
        key = content(b"true")
        for wrong in (b"false", bytes(MAX_VALUE_BYTES + 1)):
            with pytest.raises(TetherError) as error:
                await alice.put_value(key, wrong)
            assert error.value.code is FIELD_INVALID
        question = Note(PUT_VALUE, key.encode(), value=b"false")
        assert await alice._dht.ask(bob.peer_id, question) is None
        assert held(bob, key) is None
        bob._dht.values._store.put(key.encode(), b"false", None, trio.current_time())
        assert await alice.get_value(key) is None


async def test_a_namespace_that_a_node_does_not_know_is_none_of_its_business() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        await alice.connect(address(bob))
        accept(alice)
        with pytest.raises(TetherError) as error:
            await alice.put_value(content(b"x"), b"x")
        assert error.value.code is UNREACHABLE
        for call in (bob.get_value("/content/x"), bob.put_value("/content/x", b"x")):
            with pytest.raises(TetherError) as error:
                await call
            assert error.value.code is FIELD_INVALID


async def test_a_value_outlives_the_node_that_put_it_and_is_repeated_for_those_who_came_later() -> None:
    swarm = make_swarm(4)
    async with open_nodes(swarm, 2) as (alice, bob):
        await star([alice, bob])
        async with open_node(swarm, 2) as carol:
            accept(carol)
            await join(carol, alice)
            await carol.put_value(content(b"left"), b"left")
        assert await bob.get_value(content(b"left")) == b"left"
        await bob.put_value(content(b"kept"), b"kept")
        async with open_node(swarm, 3) as late:
            accept(late)
            await join(late, alice)
            assert await bob._dht.values._spread(content(b"kept"), b"kept") == 2
            assert held(late, content(b"kept")) == b"kept"
