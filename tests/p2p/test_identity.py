"""A node's keys: one seed, an id that libp2p knows, signatures that are worth nothing in another domain."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.peer.id import ID

from p2p.errors import DATA_DIR_INVALID, FIELD_INVALID, TetherError
from p2p.identity import NodeKey, PeerId, load_or_create, node_id_of, public_key_of, verify

SEEDS = st.binary(min_size=32, max_size=32)


@given(SEEDS)
def test_a_node_id_is_the_peer_id_that_libp2p_derives_and_the_key_can_be_read_back(seed: bytes) -> None:
    key = NodeKey(seed)
    theirs = ID.from_pubkey(Ed25519PublicKey.from_bytes(key.public))
    assert key.node_id == node_id_of(key.public) == theirs.to_base58()
    assert public_key_of(key.node_id) == key.public


@pytest.mark.parametrize(
    "text",
    ["", "12D3KooW", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "0OIl", "ü", "1" * 65, "x" * 10_000],
)
def test_what_is_no_id_of_an_ed25519_key_is_refused(text: str) -> None:
    with pytest.raises(TetherError) as caught:
        public_key_of(PeerId(text))
    assert caught.value.code is FIELD_INVALID


@given(st.text(max_size=70) | st.binary(max_size=50).map(lambda raw: base58.b58encode(raw).decode()))
def test_any_text_is_a_node_id_or_invalid(text: str) -> None:
    try:
        assert len(public_key_of(PeerId(text))) == 32
    except TetherError as error:
        assert error.code is FIELD_INVALID


@given(SEEDS, st.binary(max_size=100))
def test_a_signature_holds_for_its_key_its_domain_and_its_message_alone(seed: bytes, message: bytes) -> None:
    key, other = NodeKey(seed), NodeKey(bytes(31) + b"\x01")
    signature = key.sign("grant", message)
    assert verify(key.public, "grant", message, signature)
    assert not verify(key.public, "receipt", message, signature)
    assert not verify(key.public, "grant", message + b"\x00", signature)
    assert not verify(other.public, "grant", message, signature) or seed == other.seed


@given(st.binary(max_size=40), st.binary(max_size=70), st.binary(max_size=10))
def test_hostile_keys_and_signatures_are_false_and_nothing_else(
    public: bytes, signature: bytes, message: bytes
) -> None:
    assert not verify(public, "grant", message, signature)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_hostile_keys_and_signatures_of_the_right_length_are_false_too(
    public: bytes, signature: bytes
) -> None:
    assert not verify(public, "grant", b"", signature)


def test_the_sealing_key_is_derived_and_not_the_signing_key() -> None:
    key = NodeKey(bytes(range(32)))
    assert len(key.sealing_public) == len(key.sealing_secret) == 32
    assert len({key.public, key.sealing_public, key.sealing_secret, key.seed}) == 4
    assert NodeKey(bytes(range(32))).sealing_public == key.sealing_public


def test_a_key_is_made_once_for_its_owner_alone_and_read_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    key = load_or_create(path)
    assert load_or_create(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_file_that_is_none_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(os.urandom(31))
    with pytest.raises(TetherError) as caught:
        load_or_create(path)
    assert caught.value.code is DATA_DIR_INVALID
    with pytest.raises(TetherError) as caught:
        load_or_create(tmp_path / "missing" / "identity.key")
    assert caught.value.code is DATA_DIR_INVALID
