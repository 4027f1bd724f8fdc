"""Who gets in: certificates in the handshake, guests, and nobody without encryption."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import pytest
import trio
from libp2p import generate_peer_id_from, new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2p.errors import (
    CERTIFICATE_EXPIRED,
    CERTIFICATE_INVALID,
    TICKET_EXPIRED,
    UNREACHABLE,
    WRONG_SWARM,
    Code,
    TetherError,
)
from p2p.host.handshake import Gate
from p2p.host.noise.handshake import Handshake
from p2p.identity import NodeKey, PeerId
from p2p.membership import Admission, Guest, Member
from tests.p2p.hosts import address, echo, open_node, open_nodes, until
from tests.swarms import make_swarm

DAY_S = 86_400.0


async def test_members_admit_each_other_and_know_what_was_shown() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        await alice.connect(address(bob))
        await until(lambda: bob.peers() == {alice.peer_id})
        for host, other, node in ((alice, bob, 1), (bob, alice, 0)):
            admission = host.admission(other.peer_id)
            assert isinstance(admission, Member)
            assert admission.peer == other.peer_id
            assert admission.credential == swarm.credentials[node]


@pytest.mark.parametrize("shown", [b"", b"junk", b"\x80"])
async def test_a_node_without_a_passport_is_refused_before_any_protocol(shown: bytes) -> None:
    swarm = make_swarm(2)
    async with open_node(swarm, 0) as alice, open_node(swarm, 1, passport=lambda: shown) as stranger:
        alice.handle("/echo/1", echo, guests=True)
        with pytest.raises(TetherError) as error:
            await stranger.connect(address(alice))
        assert error.value.code is UNREACHABLE
        assert "refused or went away" in error.value.detail
        assert alice.peers() == frozenset()
        assert alice.admission(stranger.peer_id) is None


async def test_the_dialler_says_itself_why_it_does_not_admit_whom_it_reached() -> None:
    ours, theirs = make_swarm(2), make_swarm(2, name="another")
    async with open_node(ours, 0) as alice, open_node(theirs, 1) as stranger:
        for dialler, other in ((alice, stranger), (stranger, alice)):
            with pytest.raises(TetherError) as error:
                await dialler.connect(address(other))
            assert error.value.code is WRONG_SWARM
            assert dialler.peers() == other.peers() == frozenset()


async def test_a_dialler_that_does_not_admit_shows_no_passport_of_its_own() -> None:
    ours, theirs = make_swarm(2), make_swarm(2, name="another")
    shown: list[bytes] = []

    def look(passport: bytes, peer: PeerId) -> Admission:
        shown.append(passport)
        return theirs.admit(passport, peer)

    async with open_node(ours, 0) as alice, open_node(theirs, 1, admit=look) as stranger:
        with pytest.raises(TetherError):
            await alice.connect(address(stranger))
    assert shown == []


@pytest.mark.parametrize(
    ("later_s", "code"), [(31 * DAY_S, CERTIFICATE_EXPIRED), (-DAY_S, CERTIFICATE_INVALID)]
)
async def test_a_certificate_out_of_its_time_is_refused(later_s: float, code: Code) -> None:
    swarm = make_swarm(2)
    admit = swarm.admit_at(swarm.made_at + later_s)
    async with open_node(swarm, 0, admit=admit) as alice, open_node(swarm, 1) as bob:
        with pytest.raises(TetherError) as ours:
            await alice.connect(address(bob))
        assert ours.value.code is code
        with pytest.raises(TetherError) as theirs:
            await bob.connect(address(alice))
        assert theirs.value.code is UNREACHABLE
        assert alice.peers() == bob.peers() == frozenset()


async def test_the_certificate_of_another_node_is_worth_nothing() -> None:
    swarm = make_swarm(3)
    async with open_node(swarm, 0) as alice, open_node(swarm, 1, passport=lambda: swarm.passport(2)) as thief:
        with pytest.raises(TetherError) as error:
            await alice.connect(address(thief))
        assert error.value.code is CERTIFICATE_INVALID
        with pytest.raises(TetherError):
            await thief.connect(address(alice))
        assert alice.peers() == frozenset()


async def test_an_expired_ticket_admits_nobody() -> None:
    swarm = make_swarm(1)
    key = NodeKey(hashlib.sha256(b"guest").digest())
    late = swarm.admit_at(swarm.made_at + DAY_S)
    refusals: list[Code] = []

    def admit(passport: bytes, peer: PeerId) -> Admission:
        try:
            return late(passport, peer)
        except TetherError as error:
            refusals.append(error.code)
            raise

    passport = swarm.guest(key.node_id)
    async with (
        open_node(swarm, 0, admit=admit) as alice,
        open_node(swarm, 0, key=key, passport=lambda: passport) as guest,
    ):
        with pytest.raises(TetherError):
            await guest.connect(address(alice))
    assert refusals == [TICKET_EXPIRED]


async def test_a_guest_reaches_the_guests_protocols_alone_and_becomes_a_member_by_coming_again() -> None:
    swarm = make_swarm(2)
    shown = [swarm.guest(swarm.keys[1].node_id)]
    ups: list[tuple[PeerId, bool]] = []
    async with open_node(swarm, 0) as alice, open_node(swarm, 1, passport=lambda: shown[0]) as bob:
        alice.watch(lambda peer, up: ups.append((peer, up)))
        alice.handle("/member/1", echo)
        alice.handle("/enrol/1", echo, guests=True)
        await bob.connect(address(alice))
        stream = await bob.open_stream(alice.peer_id, "/enrol/1")
        await stream.write(b"let me in")
        assert await stream.read(100) == b"LET ME IN"
        for closed_to_guests in ("/member/1", "/ipfs/id/1.0.0", "/meshsub/1.1.0"):
            with pytest.raises(TetherError) as error:
                await bob.open_stream(alice.peer_id, closed_to_guests)
            assert "does not offer" in error.value.detail
        assert isinstance(alice.admission(bob.peer_id), Guest)
        assert (alice.peers(), ups) == (frozenset(), [])
        assert bob.peers() == {alice.peer_id}

        shown[0] = swarm.passport(1)
        await bob.disconnect(alice.peer_id)
        await bob.connect(address(alice))
        await until(lambda: alice.peers() == {bob.peer_id})
        assert isinstance(alice.admission(bob.peer_id), Member)
        assert ups == [(bob.peer_id, True)]
        await bob.open_stream(alice.peer_id, "/member/1")


async def test_a_guest_is_no_peer_of_the_dht() -> None:
    swarm = make_swarm(3)
    key = b"k" * 32
    passport = swarm.guest(swarm.keys[2].node_id)
    async with open_nodes(swarm, 2) as (alice, bob), open_node(swarm, 2, passport=lambda: passport) as guest:
        await bob.connect(address(alice))
        await guest.connect(address(alice))
        await bob.provide(key)
        assert await guest.find_providers(key) == ()
        assert await bob.find_peer(guest.peer_id) is None
        with pytest.raises(TetherError):
            await guest.provide(key)
        assert [found.peer for found in await alice.find_providers(key)] == [bob.peer_id]


async def test_a_guest_neither_hears_gossip_nor_is_heard() -> None:
    swarm = make_swarm(3)
    passport = swarm.guest(swarm.keys[2].node_id)
    async with open_nodes(swarm, 2) as (alice, bob), open_node(swarm, 2, passport=lambda: passport) as guest:
        await bob.connect(address(alice))
        await guest.connect(address(alice))
        async with (
            alice.subscribe("t", lambda _: True) as at_alice,
            bob.subscribe("t", lambda _: True),
            guest.subscribe("t", lambda _: True) as at_guest,
        ):
            await until(lambda: bool(bob._meshes._router.mesh.get("t")))
            await guest.publish("t", b"from a guest")
            await bob.publish("t", b"from a member")
            assert (await at_alice.receive()).data == b"from a member"
            assert at_guest.statistics().current_buffer_used == 0


async def test_a_dialler_that_speaks_plaintext_is_refused() -> None:
    swarm = make_swarm(1)
    async with open_node(swarm, 0) as alice:
        (listening,) = alice.addresses()
        keys = create_new_key_pair(b"p" * 32)
        plain = new_host(key_pair=keys, sec_opt={TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(keys)})
        async with plain.run(listen_addrs=[]):
            to_alice = PeerInfo(
                generate_peer_id_from(create_new_key_pair(swarm.keys[0].seed)), [Multiaddr(listening)]
            )
            with pytest.raises(SwarmException), trio.fail_after(20):
                await plain.connect(to_alice)
            await plain.close()
        assert alice.peers() == frozenset()


async def test_a_libp2p_node_with_noise_but_no_passport_gets_no_stream() -> None:
    swarm = make_swarm(1)
    async with open_node(swarm, 0) as alice:
        alice.handle("/enrol/1", echo, guests=True)
        (listening,) = alice.addresses()
        keys = create_new_key_pair(b"q" * 32)
        noise = NoiseTransport(keys, create_noise_key().private_key)
        foreign = new_host(key_pair=keys, sec_opt={NOISE_PROTOCOL_ID: noise})
        async with foreign.run(listen_addrs=[]):
            to_alice = PeerInfo(
                generate_peer_id_from(create_new_key_pair(swarm.keys[0].seed)), [Multiaddr(listening)]
            )
            with pytest.raises(SwarmException), trio.fail_after(20):
                await foreign.connect(to_alice)
            await foreign.close()
        assert alice.peers() == frozenset()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\x00",
        b"\xff" * 100,
        b"\x13/multistream/1.0.0\n\x0b/plaintext\n",
        b"\x13/multistream/1.0.0\n" + b"\x07/other\n" * 20,
        b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff" + b"x" * 70_000,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_handshake_only_close_their_socket(line: bytes) -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        port = int(alice.addresses()[0].rpartition("/")[2])
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(10):
            with suppress(trio.BrokenResourceError):
                await stream.send_all(line)
                await stream.send_eof()
                while await stream.receive_some(65_536):
                    pass
        await stream.aclose()
        await bob.connect(address(alice))


async def test_no_two_handshakes_share_an_ephemeral_key(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytes] = []
    begin = Gate._begin

    def noted(gate: Gate, *, initiator: bool) -> Handshake:
        handshake = begin(gate, initiator=initiator)
        drawn.append(handshake._own["e"].public_key().public_bytes_raw())
        return handshake

    monkeypatch.setattr(Gate, "_begin", noted)
    swarm = make_swarm(4)
    async with open_nodes(swarm, 4) as nodes:
        async with trio.open_nursery() as nursery:
            for other in nodes[1:]:
                nursery.start_soon(nodes[0].connect, address(other))
        for other in nodes[1:]:
            await nodes[0].disconnect(other.peer_id)
            await other.connect(address(nodes[0]))
    assert len(drawn) >= 12
    assert len(set(drawn)) == len(drawn)
