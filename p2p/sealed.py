"""The seal between a client's node and the worker that was chosen: nobody between them can read or alter a byte.

X25519 from an ephemeral key to the worker's certified key, then XChaCha20-Poly1305 in both directions. The additional
data binds each message to its job, attempt, number and direction, so that none can be replayed elsewhere. The scheme
is HPKE's in spirit (RFC 9180, base mode): a fresh key pair for each attempt, the worker's key known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import nacl.bindings as sodium
from nacl.encoding import RawEncoder
from nacl.exceptions import CryptoError
from nacl.hash import blake2b
from nacl.utils import random

from p2p.errors import CERTIFICATE_INVALID, DECRYPT_FAILED, TetherError
from p2p.identity import NodeKey

Direction = Literal["input", "chunk"]
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Seal:
    """The two keys of one attempt. job: 32 bytes."""

    job: bytes
    attempt: int
    to_worker: bytes
    to_client: bytes

    def close(self, direction: Direction, seq: int, plain: bytes) -> bytes:
        """Encrypt message seq. Each (direction, seq) is used once: the nonce is drawn from both."""
        key, nonce, bound = self._parts(direction, seq)
        return sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, bound, nonce, key)

    def open(self, direction: Direction, seq: int, sealed: bytes) -> bytes:
        """Raises TetherError(DECRYPT_FAILED) if a bit, the job, the attempt, seq or the direction differs."""
        key, nonce, bound = self._parts(direction, seq)
        try:
            return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, bound, nonce, key)
        except (CryptoError, ValueError) as error:
            raise TetherError(DECRYPT_FAILED, "The sealed bytes do not open.") from error

    def _parts(self, direction: Direction, seq: int) -> tuple[bytes, bytes, bytes]:
        key = self.to_worker if direction == "input" else self.to_client
        nonce = seq.to_bytes(NONCE_BYTES, "big")
        bound = b"\x00".join(
            (b"tether/seal/1", direction.encode(), self.job, b"%d" % self.attempt, b"%d" % seq)
        )
        return key, nonce, bound


def seal_to(worker_public: bytes, job: bytes, attempt: int, plain: bytes) -> tuple[Seal, bytes]:
    """Seal an attempt's input to a worker. Returns the seal for its chunks, and ephemeral key plus ciphertext.

    Raises TetherError(CERTIFICATE_INVALID) for a key that no honest worker has: the node chose it, its issuer did not.
    """
    secret = random(KEY_BYTES)
    ephemeral = sodium.crypto_scalarmult_base(secret)
    try:
        shared = sodium.crypto_scalarmult(secret, worker_public)
    except (CryptoError, RuntimeError) as error:
        raise TetherError(CERTIFICATE_INVALID, "The worker's encryption key is not a valid point.") from error
    seal = _derive(shared, ephemeral, worker_public, job, attempt)
    return seal, ephemeral + seal.close("input", 0, plain)


def open_from(key: NodeKey, job: bytes, attempt: int, sealed: bytes) -> tuple[Seal, bytes]:
    """The worker's side of seal_to. Raises TetherError(DECRYPT_FAILED)."""
    if len(sealed) < KEY_BYTES + TAG_BYTES:
        raise TetherError(DECRYPT_FAILED, "The sealed input is too short.")
    ephemeral = sealed[:KEY_BYTES]
    try:
        shared = sodium.crypto_scalarmult(key.sealing_secret, ephemeral)
    except (CryptoError, RuntimeError) as error:
        raise TetherError(DECRYPT_FAILED, "The ephemeral key is not a valid point.") from error
    seal = _derive(shared, ephemeral, key.sealing_public, job, attempt)
    return seal, seal.open("input", 0, sealed[KEY_BYTES:])


def _derive(shared: bytes, ephemeral: bytes, worker_public: bytes, job: bytes, attempt: int) -> Seal:
    def key(person: bytes) -> bytes:
        return blake2b(
            ephemeral + worker_public, digest_size=KEY_BYTES, key=shared, person=person, encoder=RawEncoder
        )

    return Seal(job, attempt, to_worker=key(b"tether-input"), to_client=key(b"tether-chunk"))
