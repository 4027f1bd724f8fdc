"""Kademlia's metric: the exclusive or of SHA-256 hashes, read as a number."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

import base58

from p2p.identity import PeerId

K: Final = 20
"""Keepers of a record, and entries of a bucket (Kademlia's k, as everywhere in libp2p)."""
BITS: Final = 256
MAX_ID_BYTES: Final = 64
MET_LATELY: Final = 8_192
"""Peers whose ids are kept as text, as bytes and as a place: base58 costs more than the rest of an answer."""


def position(raw: bytes) -> int:
    """Where a key, or a peer's id in bytes, lies in the key space."""
    return int.from_bytes(hashlib.sha256(raw).digest())


@lru_cache(maxsize=MET_LATELY)
def seat(peer: PeerId) -> int:
    """Where a peer sits."""
    return position(raw_id(peer))


@lru_cache(maxsize=MET_LATELY)
def raw_id(peer: PeerId) -> bytes:
    return base58.b58decode(peer)


def peer_of(raw: bytes) -> PeerId:
    """The other way; whether it is a peer's at all is not checked. Base58 costs the square of the length: 64 bytes."""
    return _peer_of(raw[:MAX_ID_BYTES])


@lru_cache(maxsize=MET_LATELY)
def _peer_of(raw: bytes) -> PeerId:
    return PeerId(base58.b58encode(raw).decode())
