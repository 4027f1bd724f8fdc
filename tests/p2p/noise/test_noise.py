"""Noise: the handshake against another implementation, what is refused in it, and the messages behind it."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection  # type: ignore[import-untyped]

from p2p.host.errors import ConnectionLost, PeerFault
from p2p.host.noise import payload
from p2p.host.noise.handshake import NAME, Handshake
from p2p.host.noise.transport import LAST_NONCE, MAX_PLAIN_BYTES, Opener, Sealer, sealed_size
from p2p.identity import NodeKey

KEY = bytes(range(32))


def handshakes() -> tuple[Handshake, Handshake]:
    """Both sides, each with a key of its own."""
    dialer, listener = (Handshake(X25519PrivateKey.generate(), initiator=side) for side in (True, False))
    return dialer, listener


def sealed(sealer: Sealer, plain: bytes) -> bytes:
    wire = memoryview(bytearray(sealed_size(len(plain))))
    assert sealer.seal(memoryview(plain), wire) == len(wire)
    return bytes(wire)


def opened(opener: Opener, wire: bytes) -> tuple[int, bytes]:
    room = memoryview(bytearray(len(wire)))
    used, written = opener.open(memoryview(wire), room)
    return used, bytes(room[:written])


def test_both_sides_agree_on_keys_and_learn_each_others() -> None:
    dialer, listener = handshakes()
    assert listener.read(dialer.write(b"")) == b""
    assert dialer.read(listener.write(b"two")) == b"two"
    assert listener.read(dialer.write(b"three")) == b"three"
    (seal, open_), (back_seal, back_open) = dialer.split(), listener.split()
    assert opened(back_open, sealed(seal, b"there"))[1] == b"there"
    assert opened(open_, sealed(back_seal, b"back"))[1] == b"back"


@pytest.mark.parametrize("initiator", [True, False])
def test_another_implementation_of_noise_understands_every_message(initiator: bool) -> None:
    ours = Handshake(X25519PrivateKey.generate(), initiator=initiator)
    theirs = NoiseConnection.from_name(NAME)
    static = X25519PrivateKey.generate()
    theirs.set_keypair_from_private_bytes(Keypair.STATIC, static.private_bytes_raw())
    (theirs.set_as_responder if initiator else theirs.set_as_initiator)()
    theirs.start_handshake()
    turn = initiator
    for number in range(3):
        said = b"payload %d" % number
        if turn:
            assert theirs.read_message(ours.write(said)) == said
        else:
            assert ours.read(bytes(theirs.write_message(said))) == said
        turn = not turn
    assert ours.remote_static == static.public_key().public_bytes_raw()
    seal, open_ = ours.split()
    for text in (b"", b"x", b"y" * MAX_PLAIN_BYTES):
        if text:
            assert theirs.decrypt(sealed(seal, text)[2:]) == text
        message = theirs.encrypt(text)
        assert opened(open_, len(message).to_bytes(2, "big") + message)[1] == text


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "again"])
def test_a_handshake_message_that_was_touched_is_the_peers_fault(number: int, harm: str) -> None:
    sides = handshakes()
    before = b"\0" * 31
    for turn in range(1, 4):
        writer, reader = sides if turn % 2 else sides[::-1]
        message = writer.write(b"hello")
        if turn < number:
            reader.read(message)
            before = message
            continue
        touched = {
            "cut": message[:-1] if turn > 1 else message[:20],
            "flip": message[:-1] + bytes([message[-1] ^ 1]),
            "empty": b"",
            "again": before,
        }[harm]
        if turn == 1 and harm == "flip":
            reader.read(touched)  # nothing is authentic yet in the first message; the second one finds out
            with pytest.raises(PeerFault):
                writer.read(reader.write(b""))
            return
        with pytest.raises(PeerFault):
            reader.read(touched)
        return


def test_a_key_of_low_order_is_the_peers_fault() -> None:
    _, listener = handshakes()
    listener.read(bytes(32))
    with pytest.raises(PeerFault):
        listener.write(b"")


def written(node: NodeKey, early_data: bytes) -> bytes:
    return payload.write(node.public, payload.sign(node, b"s" * 32), early_data)


def test_a_payload_says_whose_key_it_is_and_carries_the_passport() -> None:
    node = NodeKey(KEY)
    claim = payload.check(written(node, b"passport"), b"s" * 32)
    assert (claim.peer, claim.early_data) == (node.node_id, b"passport")


def test_a_payload_signed_for_another_noise_key_is_refused() -> None:
    with pytest.raises(PeerFault):
        payload.check(written(NodeKey(KEY), b""), b"t" * 32)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_payload_or_the_peers_fault(data: bytes) -> None:
    with pytest.raises(PeerFault):
        payload.check(data, b"s" * 32)


@given(st.lists(st.binary(max_size=200_000), max_size=4), st.lists(st.integers(1, 70_000), min_size=1))
def test_messages_come_back_however_they_are_cut(texts: list[bytes], cuts: list[int]) -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    wire = b"".join(sealed(sealer, text) for text in texts)
    received, rest, at, turn = b"", b"", 0, 0
    while at < len(wire):
        cut = cuts[turn % len(cuts)]
        rest += wire[at : at + cut]
        at, turn = at + cut, turn + 1
        used, plain = opened(opener, rest)
        received, rest = received + plain, rest[used:]
    assert (received, rest) == (b"".join(texts), b"")


@pytest.mark.parametrize(
    "wire",
    [
        sealed(Sealer(KEY), b"first")[:-1] + b"\0",
        b"\0\0",
        b"\0\x0f" + b"x" * 15,
        sealed(Sealer(KEY), b"first") * 2,
        sealed(Sealer(b"k" * 32), b"of another key"),
    ],
    ids=["forged", "empty", "shorter than a tag", "repeated", "another key"],
)
def test_a_message_that_is_not_the_next_authentic_one_is_the_peers_fault(wire: bytes) -> None:
    with pytest.raises(PeerFault):
        opened(Opener(KEY), wire)


@given(st.binary(max_size=2_000))
def test_any_bytes_are_messages_or_the_peers_fault(data: bytes) -> None:
    try:
        used, plain = opened(Opener(KEY), data)
    except PeerFault:
        return
    assert (used, plain) == (0, b"")


def test_a_key_that_is_used_up_ends_the_connection() -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    sealer.count = opener.count = LAST_NONCE
    assert opened(opener, sealed(sealer, b"last"))[1] == b"last"
    with pytest.raises(ConnectionLost):
        sealed(sealer, b"one more")
    with pytest.raises(ConnectionLost):
        opened(opener, sealed(Sealer(KEY), os.urandom(10)))
