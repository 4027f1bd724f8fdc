"""Hosts over real sockets: dials, one connection a peer, and closing."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from functools import partial

import psutil
import pytest
import trio

from p2p.errors import ADDRESS_IN_USE, FIELD_INVALID, UNREACHABLE, TetherError
from p2p.host.host import Host
from p2p.identity import PeerId
from p2p.transport import PeerAddress, Stream, refused
from tests.p2p.hosts import ANYWHERE, QUICK, address, echo, open_node, open_nodes, until
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


async def test_a_dial_says_what_is_wrong() -> None:
    swarm = make_swarm(2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"/ip4/127.0.0.1/tcp/{free.getsockname()[1]}"
        bob = swarm.keys[1].node_id
        async with open_node(swarm, 0) as alice:
            with pytest.raises(TetherError) as unknown:
                await alice.connect(PeerAddress(bob))
            assert "address" in unknown.value.detail
            with pytest.raises(TetherError) as down:
                await alice.connect(PeerAddress(bob, (nobody,)))
            assert refused(down.value)
            with pytest.raises(TetherError) as itself:
                await alice.connect(address(alice))
            assert itself.value.code is UNREACHABLE


async def test_an_address_where_another_node_lives_is_not_the_peer() -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 2) as (alice, bob):
        with pytest.raises(TetherError) as error:
            await alice.connect(PeerAddress(swarm.keys[2].node_id, bob.addresses()))
        assert error.value.code is UNREACHABLE
        assert alice.peers() == frozenset()


async def test_a_wrong_address_does_not_stand_in_the_way_of_the_right_one() -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 3) as (alice, bob, carol):
        wrong = ("/ip4/127.0.0.1/tcp/1", *carol.addresses(), "/dns4/localhost/udp/1", "nonsense")
        await alice.connect(PeerAddress(bob.peer_id, wrong + bob.addresses()))
        assert alice.peers() == {bob.peer_id}


async def test_many_who_connect_at_once_share_one_dial_and_both_sides_share_one_connection() -> None:
    swarm = make_swarm(2)
    for _ in range(5):
        async with open_nodes(swarm, 2) as (alice, bob):
            closed = sockets()
            for host in (alice, bob):
                host.handle(ECHO, echo)
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(alice.connect, address(bob))
                    nursery.start_soon(bob.connect, address(alice))
            await until(partial(sockets_are, closed + 2))
            for opener, other in ((alice, bob), (bob, alice)):
                assert opener.peers() == {other.peer_id}
                assert await exchange(await opener.open_stream(other.peer_id, ECHO), b"one") == b"ONE"


async def test_watchers_hear_of_members_that_come_and_go_and_a_peer_may_come_back() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        seen: list[tuple[PeerId, bool]] = []
        bob.watch(lambda peer, up: seen.append((peer, up)))
        await alice.connect(address(bob))
        await until(lambda: len(seen) == 1)
        await alice.disconnect(bob.peer_id)
        assert alice.peers() == frozenset()
        assert alice.admission(bob.peer_id) is None
        await until(lambda: len(seen) == 2)
        await alice.connect(PeerAddress(bob.peer_id))
        await until(lambda: len(seen) == 3)
        assert seen == [(alice.peer_id, up) for up in (True, False, True)]


async def test_a_lost_connection_breaks_the_streams_of_both_sides() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        faults: list[TetherError] = []

        async def wait(stream: Stream) -> None:
            try:
                await stream.read(1)
            except TetherError as error:
                faults.append(error)
                raise

        bob.handle("/wait/1", wait)
        await alice.connect(address(bob))
        stream = await alice.open_stream(bob.peer_id, "/wait/1")
        await bob.disconnect(alice.peer_id)
        with pytest.raises(TetherError) as error:
            await stream.read(1)
        assert error.value.code is UNREACHABLE
        with pytest.raises(TetherError):
            await stream.write(b"x")
        await until(lambda: len(faults) == 1)
        assert faults[0].code is UNREACHABLE


async def test_a_node_that_comes_back_under_the_same_key_replaces_what_it_was() -> None:
    swarm = make_swarm(2)
    async with open_node(swarm, 0) as alice:
        alice.handle(ECHO, echo)
        for _ in range(3):
            async with open_node(swarm, 1) as bob:
                await bob.connect(address(alice))
                assert await exchange(await bob.open_stream(alice.peer_id, ECHO), b"again") == b"AGAIN"
            await until(lambda: alice.peers() == frozenset())


async def test_what_was_written_last_arrives_although_the_host_closes() -> None:
    swarm = make_swarm(2)
    async with open_node(swarm, 1) as bob:
        heard = bytearray()

        async def listen(stream: Stream) -> None:
            while data := await stream.read(65_536):
                heard.extend(data)

        bob.handle("/listen/1", listen)
        async with open_node(swarm, 0) as alice:
            await alice.connect(address(bob))
            stream = await alice.open_stream(bob.peer_id, "/listen/1")
            await stream.write(b"farewell")
        await until(lambda: bytes(heard) == b"farewell")


async def test_an_address_in_use_is_named() -> None:
    swarm = make_swarm(2)
    async with open_node(swarm, 0) as alice:
        (taken,) = alice.addresses()
        with pytest.raises(TetherError) as error:
            async with open_node(swarm, 1, listen=taken):
                pytest.fail("two hosts share a port")
        assert error.value.code is ADDRESS_IN_USE
        assert taken in error.value.detail


@pytest.mark.parametrize(
    "listen", ["", "tcp:80", "/ip4/127.0.0.1", "/ip4/300.0.0.1/tcp/1", "/ip4/192.0.2.77/tcp/1"]
)
async def test_an_address_that_cannot_be_listened_on_is_named(listen: str) -> None:
    with pytest.raises(TetherError) as error:
        async with open_node(make_swarm(1), 0, listen=listen):
            pytest.fail("it listens")
    assert error.value.code is FIELD_INVALID
    assert listen in error.value.detail


async def test_a_host_on_every_interface_tells_addresses_that_others_can_dial() -> None:
    swarm = make_swarm(2)
    async with open_node(swarm, 0, listen="/ip4/0.0.0.0/tcp/0") as alice, open_node(swarm, 1) as bob:
        assert alice.addresses()
        assert not any("0.0.0.0" in one or one.endswith("/tcp/0") for one in alice.addresses())
        await bob.connect(address(alice))


async def test_an_error_of_the_body_leaves_the_context_as_it_is() -> None:
    with pytest.raises(TetherError) as error:
        async with open_node(make_swarm(1), 0):
            raise TetherError(FIELD_INVALID, "mine")
    assert error.value.detail == "mine"


async def test_a_closed_host_leaves_no_socket_behind() -> None:
    swarm = make_swarm(4)
    before = sockets()
    async with open_nodes(swarm, 4) as hosts:
        await connect_all(hosts)
        assert sockets() > before
    assert sockets() == before


async def connect_all(hosts: list[Host]) -> None:
    for host in hosts[1:]:
        await host.connect(address(hosts[0]))


async def test_a_host_that_is_cancelled_leaves_no_socket_behind() -> None:
    swarm = make_swarm(2)
    before = sockets()
    with trio.CancelScope() as scope:
        async with open_nodes(swarm, 2) as hosts:
            await connect_all(hosts)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert sockets() == before
    async with open_node(swarm, 0, listen=ANYWHERE):
        pass


class Cable:
    """Carries TCP to a port until it is pulled; then it is silent and nothing is closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.pulled = trio.Event()

    async def carry(self, *, task_status: trio.TaskStatus[str]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(f"/ip4/127.0.0.1/tcp/{listeners[0].socket.getsockname()[1]}")
        await trio.serve_listeners(self._join, listeners)

    async def _join(self, near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, near, far)
            nursery.start_soon(self._copy, far, near)

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        while data := await source.receive_some(65_536):
            if self.pulled.is_set():
                await trio.sleep_forever()
            await sink.send_all(data)


async def test_a_peer_behind_a_cable_that_was_pulled_is_noticed() -> None:
    swarm = make_swarm(2)
    impatient = replace(QUICK, silence_s=0.2)
    async with (
        open_node(swarm, 0, settings=impatient) as alice,
        open_node(swarm, 1, settings=impatient) as bob,
        trio.open_nursery() as nursery,
    ):
        bob.handle("/wait/1", wait_for_a_byte)
        cable = Cable(int(bob.addresses()[0].rpartition("/")[2]))
        end: str = await nursery.start(cable.carry)
        await alice.connect(PeerAddress(bob.peer_id, (end,)))
        stream = await alice.open_stream(bob.peer_id, "/wait/1")
        cable.pulled.set()
        with pytest.raises(TetherError) as error:
            await stream.read(1)
        assert error.value.code is UNREACHABLE
        await until(lambda: not alice.peers() and not bob.peers())
        nursery.cancel_scope.cancel()


async def wait_for_a_byte(stream: Stream) -> None:
    await stream.read(1)


async def test_a_peer_that_ignores_its_window_loses_the_connection() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):

        async def never(stream: Stream) -> None:
            await trio.sleep_forever()

        bob.handle("/never/1", never)
        await alice.connect(address(bob))
        stream, _ = await alice._switch.open(bob.peer_id, ["/never/1"])
        stream._flow.send_left = 100_000_000
        with pytest.raises(TetherError):
            await stream.write(bytes(100_000_000))
        await until(lambda: not bob.peers())
