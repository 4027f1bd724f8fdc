"""The XX handshake: each side proves the key it brings, and nobody but the other side learns it.

    message  dialer              listener   tokens
    1        ── e ──────────────────────>   e
    2        <── e, ee, s, es ───────────   e, ee, s, es      the listener's static key, encrypted
    3        ── s, se ──────────────────>   s, se             the dialler's, to a listener that is proven

Written on `cryptography`'s primitives rather than on the `noiseprotocol` package, which libp2p brings: that one has
had no release since 2020, and the part of the framework that libp2p uses is this one file. Names and order of the
operations are those of section 5 of the framework.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2p.host.errors import PeerFault
from p2p.host.noise.transport import MAX_MESSAGE_BYTES, TAG_BYTES, Opener, Sealer, nonce

NAME: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"
KEY_BYTES: Final = 32
_PATTERN: Final = (("e",), ("e", "ee", "s", "es"), ("s", "se"))
"""The tokens of each message; the dialler writes the first and the third."""


class Handshake:
    """One side of one handshake. Messages alternate, the dialler begins. Raises PeerFault for what does not fit."""

    def __init__(
        self, static: X25519PrivateKey, *, initiator: bool, ephemeral: X25519PrivateKey | None = None
    ) -> None:
        """ephemeral: a key that was just drawn, and is used for nothing else."""
        self._initiator = initiator
        self._own = {"s": static, "e": ephemeral or X25519PrivateKey.generate()}
        self._theirs: dict[str, X25519PublicKey] = {}
        self._hash = NAME  # 32 bytes: a protocol's name as long as its hash stands for itself
        self._chain = NAME
        self._cipher: ChaCha20Poly1305 | None = None
        self._count = 0
        self._messages = iter(_PATTERN)
        self._mix_hash(b"")  # libp2p's prologue is empty

    @property
    def remote_static(self) -> bytes:
        """The other side's static key, once it came: 32 bytes, proven by the message that brought it."""
        return self._theirs["s"].public_bytes_raw()

    def write(self, payload: bytes) -> bytes:
        """This side's next message."""
        message = bytearray()
        for token in next(self._messages):
            if token in self._own:
                public = self._own[token].public_key().public_bytes_raw()
                if token == "e":
                    self._mix_hash(public)
                    message += public
                else:
                    message += self._encrypt(public)
            else:
                self._mix_key(token)
        message += self._encrypt(payload)
        if len(message) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a handshake message has at most {MAX_MESSAGE_BYTES} bytes, not {len(message)}")
        return bytes(message)

    def read(self, message: bytes) -> bytes:
        """The payload of the other side's next message."""
        rest = message
        for token in next(self._messages):
            if token in self._own:
                size = KEY_BYTES + (TAG_BYTES if self._cipher is not None else 0)
                if len(rest) < size:
                    raise PeerFault("A handshake message is too short for its keys.")
                field, rest = rest[:size], rest[size:]
                if token == "e":
                    self._mix_hash(field)
                    public = field
                else:
                    public = self._decrypt(field)
                self._theirs[token] = X25519PublicKey.from_public_bytes(public)
            else:
                self._mix_key(token)
        return self._decrypt(rest)

    def split(self) -> tuple[Sealer, Opener]:
        """The keys of the two directions, after the third message."""
        if next(self._messages, None) is not None:
            raise ValueError("the handshake is not over")
        first, second = _derive(self._chain, b"")
        ours, theirs = (first, second) if self._initiator else (second, first)
        return Sealer(ours), Opener(theirs)

    def _mix_hash(self, data: bytes) -> None:
        self._hash = hashlib.sha256(self._hash + data).digest()

    def _mix_key(self, token: str) -> None:
        """token: whose keys meet, the dialler's first."""
        ours, theirs = tuple(token) if self._initiator else tuple(reversed(token))
        try:
            shared = self._own[ours].exchange(self._theirs[theirs])
        except ValueError as error:
            raise PeerFault("A handshake key is a point of low order.") from error
        self._chain, key = _derive(self._chain, shared)
        self._cipher = ChaCha20Poly1305(key)
        self._count = 0

    def _encrypt(self, plain: bytes) -> bytes:
        if self._cipher is None:
            data = plain
        else:
            data = self._cipher.encrypt(nonce(self._count), plain, self._hash)
            self._count += 1
        self._mix_hash(data)
        return data

    def _decrypt(self, data: bytes) -> bytes:
        if self._cipher is None:
            plain = data
        else:
            try:
                plain = self._cipher.decrypt(nonce(self._count), data, self._hash)
            except InvalidTag as error:
                raise PeerFault("A handshake message is not authentic.") from error
            self._count += 1
        self._mix_hash(data)
        return plain


def _derive(chain: bytes, material: bytes) -> tuple[bytes, bytes]:
    """HKDF with two outputs (section 4.3)."""
    secret = hmac.digest(chain, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    return first, hmac.digest(secret, first + b"\x02", "sha256")
