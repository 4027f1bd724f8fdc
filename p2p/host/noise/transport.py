"""The transport phase: a stream of bytes in messages of at most 65,535, each behind its length in two bytes.

Everything of one send is sealed in one pass, everything whole in one receive is opened in one; buffers are the
caller's, so nothing is allocated here for what passes through.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2p.host.errors import ConnectionLost, NotAuthentic

LENGTH_BYTES: Final = 2
TAG_BYTES: Final = 16
MAX_MESSAGE_BYTES: Final = 65_535
MAX_PLAIN_BYTES: Final = MAX_MESSAGE_BYTES - TAG_BYTES
LAST_NONCE: Final = (1 << 64) - 2
"""2^64 - 1 is reserved (section 5.1). A key that has come this far is used up, and the connection with it."""


def nonce(count: int) -> bytes:
    return b"\0\0\0\0" + count.to_bytes(8, "little")


def sealed_size(plain_bytes: int) -> int:
    """What that many bytes take on the wire."""
    messages = -(-plain_bytes // MAX_PLAIN_BYTES)
    return plain_bytes + messages * (LENGTH_BYTES + TAG_BYTES)


class Sealer:
    """One direction's key. count: messages sealed so far."""

    def __init__(self, key: bytes) -> None:
        self.count = 0
        self._encrypt = ChaCha20Poly1305(key).encrypt_into

    def seal(self, plain: memoryview, wire: memoryview) -> int:
        """Write plain as messages to wire, which holds at least sealed_size; the bytes written.

        Raises ConnectionLost once the key is used up.
        """
        written = 0
        for start in range(0, len(plain), MAX_PLAIN_BYTES):
            if self.count > LAST_NONCE:
                raise ConnectionLost("The key of this connection is used up.")
            part = plain[start : start + MAX_PLAIN_BYTES]
            size = len(part) + TAG_BYTES
            end = written + LENGTH_BYTES + size
            wire[written] = size >> 8
            wire[written + 1] = size & 0xFF
            self._encrypt(
                b"\0\0\0\0" + self.count.to_bytes(8, "little"), part, None, wire[written + LENGTH_BYTES : end]
            )
            self.count += 1
            written = end
        return written


class Opener:
    """One direction's key. count: messages opened so far."""

    def __init__(self, key: bytes) -> None:
        self.count = 0
        self._decrypt = ChaCha20Poly1305(key).decrypt_into

    def open(self, wire: memoryview, plain: memoryview) -> tuple[int, int]:
        """Open all whole messages of wire, one behind the other, to plain, which is no smaller than wire.

        Returns (bytes of wire used, bytes of plain written). Raises PeerFault for a message that is not authentic:
        forged, repeated, left out, out of order, or too short to be one.
        """
        used = written = 0
        available = len(wire)
        while available - used >= LENGTH_BYTES:
            size = wire[used] << 8 | wire[used + 1]
            end = used + LENGTH_BYTES + size
            if end > available:
                break
            length = size - TAG_BYTES
            if length < 0:
                raise NotAuthentic("A Noise message is shorter than its tag.")
            if self.count > LAST_NONCE:
                raise ConnectionLost("The key of this connection is used up.")
            try:
                self._decrypt(
                    b"\0\0\0\0" + self.count.to_bytes(8, "little"),
                    wire[used + LENGTH_BYTES : end],
                    None,
                    plain[written : written + length],
                )
            except InvalidTag as error:
                raise NotAuthentic("A Noise message is not authentic.") from error
            self.count += 1
            used = end
            written += length
        return used, written
