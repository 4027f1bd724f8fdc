"""Peers that break the rules of relaying, as raw as the streams let them."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from p2p.errors import TetherError
from p2p.host.framing import Frames, framed
from p2p.host.host import Host
from p2p.host.paths import Reachability
from p2p.host.relay.wire import (
    CONNECT,
    HOP,
    MAX_BYTES,
    RESERVE,
    STATUS,
    STOP,
    STOP_CONNECT,
    Hop,
    Status,
    Stop,
    read_hop,
    read_stop,
    write_hop,
    write_stop,
)
from p2p.host.settings import RelayTerms
from p2p.identity import PeerId
from p2p.transport import Stream
from tests.p2p.hosts import address, echo, open_node, until
from tests.p2p.relay.people import behind, open_hidden, open_relay
from tests.swarms import make_swarm


async def ask(host: Host, peer: PeerId, protocol: str, message: bytes) -> tuple[Stream, bytes]:
    stream = await host.open_stream(peer, protocol)
    await stream.write(framed(message))
    return stream, await Frames(stream, MAX_BYTES).one()


async def test_a_claimed_id_gets_no_slot() -> None:
    swarm = make_swarm(9)
    async with open_relay(swarm, terms=RelayTerms(reservations=2)) as relay, open_node(swarm, 1) as liar:
        await liar.connect(address(relay))
        for victim in swarm.keys[2:]:
            claim = write_hop(Hop(RESERVE, peer=victim.node_id))
            assert read_hop((await ask(liar, relay.peer_id, HOP, claim))[1]).status is Status.OK
        async with open_hidden(swarm, 2, relay):
            pass


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (framed(b"\xff\xff"), Status.MALFORMED_MESSAGE),
        (b"\xff\xff\xff\xff\x7f", Status.MALFORMED_MESSAGE),
        (framed(bytes(MAX_BYTES)), Status.MALFORMED_MESSAGE),
        (framed(write_hop(Hop(CONNECT))), Status.UNEXPECTED_MESSAGE),
        (framed(write_hop(Hop(STATUS, Status.OK))), Status.UNEXPECTED_MESSAGE),
        (framed(bytes.fromhex("08011202 0a00")), Status.MALFORMED_MESSAGE),
    ],
)
async def test_what_a_relay_cannot_read_is_answered_and_nothing_else_suffers(
    said: bytes, answer: Status
) -> None:
    swarm = make_swarm(2)
    async with open_relay(swarm) as relay, open_node(swarm, 1) as peer:
        await peer.connect(address(relay))
        stream = await peer.open_stream(relay.peer_id, HOP)
        await stream.write(said)
        assert read_hop(await Frames(stream, MAX_BYTES).one()).status is answer
        _, granted = await ask(peer, relay.peer_id, HOP, write_hop(Hop(RESERVE)))
        assert read_hop(granted).status is Status.OK


async def test_circuits_come_only_from_relays_that_were_asked() -> None:
    swarm = make_swarm(3)
    async with open_node(swarm, 0) as victim, open_node(swarm, 1) as stranger:
        await stranger.connect(address(victim))
        call = write_stop(Stop(STOP_CONNECT, peer=swarm.keys[2].node_id))
        _, answer = await ask(stranger, victim.peer_id, STOP, call)
        assert read_stop(answer).status is Status.PERMISSION_DENIED


async def test_a_relay_that_names_somebody_else_as_the_source_makes_nobody_of_it() -> None:
    """The ends prove themselves to each other; what the relay says of them is worth nothing."""
    swarm = make_swarm(4)
    async with open_node(swarm, 0) as relay, open_hidden(swarm, 1, relay, reserve=False) as bob:

        async def grant(stream: Stream) -> None:
            await Frames(stream, MAX_BYTES).one()
            granted = Hop(STATUS, Status.OK, expires=1, addresses=relay.addresses())
            await stream.write(framed(write_hop(granted)))

        relay.handle(HOP, grant)
        bob.reach.found(Reachability.PRIVATE)
        await until(lambda: len(bob.addresses()) == 1)
        call = write_stop(Stop(STOP_CONNECT, peer=swarm.keys[3].node_id))
        stream, answer = await ask(relay, bob.peer_id, STOP, call)
        assert read_stop(answer).status is Status.OK
        await stream.write(
            b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20" + bytes(32) + b"\x00\x30" + bytes(48)
        )
        with pytest.raises(TetherError):
            while await stream.read(1000):
                pass
        assert bob.peers() == {relay.peer_id}


async def test_a_target_that_takes_no_circuit_is_said_to_be_out_of_reach() -> None:
    swarm = make_swarm(3)
    async with open_relay(swarm) as relay, open_hidden(swarm, 1, relay) as alice, open_node(swarm, 2) as bob:
        await bob.connect(address(relay))

        asked = trio.Event()

        async def silence(stream: Stream) -> None:
            asked.set()
            await trio.sleep_forever()

        bob.handle(STOP, silence)
        await ask(bob, relay.peer_id, HOP, write_hop(Hop(RESERVE)))
        stream = await alice.open_stream(relay.peer_id, HOP)
        await stream.write(framed(write_hop(Hop(CONNECT, peer=bob.peer_id))))
        await asked.wait()
        await bob.disconnect(relay.peer_id)
        assert read_hop(await Frames(stream, MAX_BYTES).one()).status is Status.CONNECTION_FAILED


async def test_circuits_are_not_laid_through_circuits() -> None:
    swarm = make_swarm(3)
    async with (
        open_relay(swarm) as relay,
        open_hidden(swarm, 1, relay) as alice,
        open_hidden(swarm, 2, relay) as bob,
    ):
        await alice.connect(behind(bob))
        bob.reach.found(Reachability.PUBLIC)
        answer = None
        while answer is None:
            try:
                _, answer = await ask(alice, bob.peer_id, HOP, write_hop(Hop(RESERVE)))
            except TetherError:
                await trio.sleep(0.01)
        assert read_hop(answer).status is Status.PERMISSION_DENIED


async def test_a_relay_whose_budget_is_used_up_slows_down_and_holds_no_more_than_its_windows() -> None:
    swarm = make_swarm(3)
    terms = RelayTerms(bytes_per_s=200_000)
    async with (
        open_relay(swarm, terms=terms) as relay,
        open_hidden(swarm, 1, relay) as alice,
        open_hidden(swarm, 2, relay) as bob,
    ):
        bob.handle("/echo/1", echo)
        heard = 0

        async def swallow(stream: Stream) -> None:
            nonlocal heard
            while part := await stream.read(65_536):
                heard += len(part)

        bob.handle("/swallow/1", swallow)
        await alice.connect(behind(bob))
        began = trio.current_time()
        stream = await alice.open_stream(bob.peer_id, "/swallow/1")
        with trio.move_on_after(1.0):
            await stream.write(bytes(4_000_000))
        assert heard <= 200_000 * (trio.current_time() - began + 0.5) + 65_536


@pytest.mark.parametrize("meddle", [False, True], ids=["reads along", "changes a byte"])
async def test_a_relay_learns_nothing_and_changes_nothing_unnoticed(meddle: bool) -> None:
    swarm = make_swarm(3)
    seen = bytearray()
    async with (
        open_node(swarm, 0) as relay,
        open_hidden(swarm, 1, relay, reserve=False) as alice,
        open_hidden(swarm, 2, relay, reserve=False) as bob,
    ):

        async def carry(source: Stream, target: Stream) -> None:
            with suppress(TetherError):
                while data := await source.read(65_536):
                    seen.extend(data)
                    if meddle and len(seen) > 20_000:
                        data = bytes([data[0] ^ 1]) + data[1:]
                    await target.write(data)
                await target.close()

        async def hop(source: Stream) -> None:
            asked = read_hop(await Frames(source, MAX_BYTES).one())
            if asked.kind == RESERVE:
                granted = Hop(STATUS, Status.OK, expires=1, addresses=relay.addresses())
                await source.write(framed(write_hop(granted)))
                return
            assert asked.peer is not None
            call = write_stop(Stop(STOP_CONNECT, peer=source.peer))
            target = await relay.open_stream(asked.peer, STOP)
            await target.write(framed(call))
            frames = Frames(target, MAX_BYTES)
            assert read_stop(await frames.one()).status is Status.OK
            await source.write(framed(write_hop(Hop(STATUS, Status.OK))) + frames.rest())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry, source, target)
                nursery.start_soon(carry, target, source)

        relay.handle(HOP, hop)
        bob.reach.found(Reachability.PRIVATE)
        await until(lambda: len(bob.addresses()) == 1)
        heard = bytearray()

        async def listen(stream: Stream) -> None:
            while part := await stream.read(65_536):
                heard.extend(part)

        bob.handle("/listen/1", listen)
        gone = trio.Event()
        alice.watch(lambda peer, up: None if up or peer != bob.peer_id else gone.set())
        await alice.connect(behind(bob))
        said = b"a secret that is said again and again, " * 3_000
        stream = await alice.open_stream(bob.peer_id, "/listen/1")
        with suppress(TetherError):
            await stream.write(said)
        await until(lambda: heard == said or gone.is_set())
        assert gone.is_set() is meddle
        assert said.startswith(heard)
        assert len(seen) > 20_000 and b"secret" not in seen and b"/listen/1" not in seen
        if meddle:
            meddle = False
            seen.clear()
            await alice.connect(behind(bob))
            assert bob.peer_id in alice.peers()
