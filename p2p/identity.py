"""A node's keys: Ed25519 to sign and to be known by, X25519 to be sealed to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NewType

import base58
import nacl.bindings as sodium
from nacl.encoding import RawEncoder
from nacl.exceptions import BadSignatureError
from nacl.hash import blake2b
from nacl.signing import SigningKey, VerifyKey

from p2p.errors import DATA_DIR_INVALID, FIELD_INVALID, TetherError

PeerId = NewType("PeerId", str)
"""A node's id: the libp2p peer id of its Ed25519 key (12D3KooW…), from which the key can be read back."""

_PEER_ID_PREFIX: Final = bytes.fromhex("002408011220")
"""Identity multihash around the protobuf PublicKey{type: Ed25519, data: 32 bytes} (libp2p peer-ids spec)."""

KNOWN_IDS: Final = 4_096
"""Ids whose keys are kept, some 600 KB: Base58 costs as much as a signature, and every request names a few peers."""


@dataclass(frozen=True, slots=True)
class NodeKey:
    """One node's secret. seed: the 32 bytes everything else is derived from."""

    seed: bytes

    @classmethod
    def generate(cls) -> NodeKey:
        return cls(os.urandom(32))

    @property
    def node_id(self) -> PeerId:
        return node_id_of(self.public)

    @property
    def public(self) -> bytes:
        return bytes(_signing_key(self.seed).verify_key)

    @property
    def sealing_secret(self) -> bytes:
        """The X25519 secret, derived so that one file backs up both keys."""
        return _sealing_keys(self.seed)[0]

    @property
    def sealing_public(self) -> bytes:
        return _sealing_keys(self.seed)[1]

    def sign(self, domain: str, message: bytes) -> bytes:
        """Sign message under a domain, so that a signature for one purpose is worth nothing for another. 64 bytes."""
        return _signing_key(self.seed).sign(_separated(domain, message)).signature


def verify(public: bytes, domain: str, message: bytes, signature: bytes) -> bool:
    """Whether signature (64 bytes) is public's over message in domain. Never raises on hostile bytes."""
    if len(public) != 32 or len(signature) != 64:
        return False
    try:
        VerifyKey(public).verify(_separated(domain, message), signature)
    except BadSignatureError:
        return False
    return True


@lru_cache(maxsize=KNOWN_IDS)
def node_id_of(public: bytes) -> PeerId:
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public).decode())


@lru_cache(maxsize=KNOWN_IDS)
def public_key_of(node_id: PeerId) -> bytes:
    """The Ed25519 key inside a node id. Raises TetherError(FIELD_INVALID) for anything else."""
    try:
        raw = base58.b58decode(node_id) if len(node_id) <= 64 else b""
    except ValueError:
        raw = b""
    if len(raw) != 38 or not raw.startswith(_PEER_ID_PREFIX):
        raise TetherError(FIELD_INVALID, "The node id is not that of an Ed25519 key.", field="nodeId")
    return raw[len(_PEER_ID_PREFIX) :]


def load_or_create(path: Path) -> NodeKey:
    """Read identity.key, or make it (mode 0600). Raises TetherError(DATA_DIR_INVALID)."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _load(path)
    except OSError as error:
        raise TetherError(DATA_DIR_INVALID, f"Cannot write {path}: {error.strerror}.") from error
    key = NodeKey.generate()
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.seed)
        file.flush()
        os.fsync(file.fileno())
    return key


def _load(path: Path) -> NodeKey:
    try:
        seed = path.read_bytes()
    except OSError as error:
        raise TetherError(DATA_DIR_INVALID, f"Cannot read {path}: {error.strerror}.") from error
    if len(seed) != 32:
        raise TetherError(DATA_DIR_INVALID, f"{path} is not a node key: it has {len(seed)} bytes, not 32.")
    return NodeKey(seed)


@lru_cache(maxsize=64)
def _signing_key(seed: bytes) -> SigningKey:
    """Derived once a process: every signature and every id needs it."""
    return SigningKey(seed)


@lru_cache(maxsize=64)
def _sealing_keys(seed: bytes) -> tuple[bytes, bytes]:
    secret = blake2b(b"", digest_size=32, key=seed, person=b"tether-seal", encoder=RawEncoder)
    return secret, sodium.crypto_scalarmult_base(secret)


def _separated(domain: str, message: bytes) -> bytes:
    return b"tether/" + domain.encode() + b"\x00" + message
