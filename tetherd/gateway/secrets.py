"""What a request is known by and what its MAC is keyed with: derived, so that a repeated request is the same one."""

from __future__ import annotations

import hashlib
from typing import Final

from p2p.identity import NodeKey

_PERSON_TENANT: Final = b"tether-tenant"
_PERSON_MAC: Final = b"tether-mac"
_PERSON_SEED: Final = b"tether-seed"
_PERSON_REPLAY: Final = b"tether-replay"
_PERSON_INPUT: Final = b"tether-input"
_PERSON_DEAD: Final = b"tether-dead"


def local_secret(key: NodeKey) -> bytes:
    """The secret of tenant `local`: this gateway's own, 32 bytes; from it nobody learns the node's key."""
    return _derive(b"local", key.seed, _PERSON_TENANT)


def mac_key(secret: bytes, job: bytes) -> bytes:
    """The key of one job's request MAC, 32 bytes: the worker that is shown it can test no other request."""
    return _derive(job, secret, _PERSON_MAC)


def drawn_seed(secret: bytes, job: bytes) -> int:
    """A seed below 2**63 for a request that brought none: random as its job is, and the same when it is repeated."""
    return int.from_bytes(_derive(job, secret, _PERSON_SEED)[:8], "little") >> 1


def replay_key(secret: bytes, job: bytes) -> bytes:
    """The key under which one finished answer is kept, 32 bytes."""
    return _derive(job, secret, _PERSON_REPLAY)


def input_digest(secret: bytes, asked: bytes) -> bytes:
    """What tells the same input of the same tenant again, 16 bytes; whoever has not the secret can test no guess."""
    return hashlib.blake2b(asked, digest_size=16, key=secret, person=_PERSON_INPUT).digest()


def dead_input_key(secret: bytes, job: bytes) -> bytes:
    """The key under which the input of one dead letter is kept, 32 bytes."""
    return _derive(job, secret, _PERSON_DEAD)


def _derive(data: bytes, secret: bytes, person: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32, key=secret, person=person).digest()
