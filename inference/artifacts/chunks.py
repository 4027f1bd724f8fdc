"""How a file is cut: chunks of one size, each with its SHA-256, so that no byte counts before it is verified. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from p2p.errors import MODEL_INVALID, TetherError
from p2p.messages import Message

DIGEST_BYTES: Final = 32
MIN_CHUNK_BYTES: Final = 1 << 20
MAX_CHUNK_BYTES: Final = 1 << 26
MAX_CHUNKS: Final = 4_096
"""A list of digests has at most 128 KiB: 256 GiB in chunks of the largest size."""
MAX_FILE_BYTES: Final = MAX_CHUNKS * MAX_CHUNK_BYTES


class Blob(Message, frozen=True):
    """A file by its content. sha256: hex; chunks: the SHA-256 of each chunk, one after the other."""

    sha256: str
    size: int
    chunk_bytes: int
    chunks: bytes

    @property
    def count(self) -> int:
        return len(self.chunks) // DIGEST_BYTES

    def offset(self, index: int) -> int:
        return index * self.chunk_bytes

    def length(self, index: int) -> int:
        """Bytes of a chunk; the last one is as long as it has to be."""
        return min(self.chunk_bytes, self.size - self.offset(index))

    def matches(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        """Whether data is that chunk."""
        at = index * DIGEST_BYTES
        return hashlib.sha256(data).digest() == self.chunks[at : at + DIGEST_BYTES]


def check_blob(blob: Blob) -> Blob:
    """Refuse what does not fit together: blobs come with manifests, from others. Raises TetherError(MODEL_INVALID)."""
    sound = (
        len(blob.sha256) == 2 * DIGEST_BYTES
        and set(blob.sha256) <= set("0123456789abcdef")
        and 0 < blob.size <= MAX_FILE_BYTES
        and MIN_CHUNK_BYTES <= blob.chunk_bytes <= MAX_CHUNK_BYTES
        and len(blob.chunks) == DIGEST_BYTES * -(-blob.size // blob.chunk_bytes)
    )
    if not sound:
        raise TetherError(
            MODEL_INVALID, "A file's size, chunks and digests do not fit together.", field="model"
        )
    return blob


def chunk_bytes_for(size: int) -> int:
    """The smallest size of chunks that keeps their number in bounds. Raises TetherError(MODEL_INVALID)."""
    if not 0 < size <= MAX_FILE_BYTES:
        raise TetherError(MODEL_INVALID, f"A file of {size} bytes cannot be published.", field="model")
    chunk = MIN_CHUNK_BYTES
    while chunk * MAX_CHUNKS < size:
        chunk *= 2
    return chunk


class Digester:
    """The blob of a file that is read from its beginning to its end."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._chunk_bytes = chunk_bytes_for(size)
        self._whole = hashlib.sha256()
        self._chunks: list[bytes] = []

    def spans(self) -> Iterator[int]:
        """How many bytes to read next, until the end."""
        for begin in range(0, self._size, self._chunk_bytes):
            yield min(self._chunk_bytes, self._size - begin)

    def add(self, chunk: bytes) -> None:
        self._whole.update(chunk)
        self._chunks.append(hashlib.sha256(chunk).digest())

    def blob(self) -> Blob:
        return Blob(self._whole.hexdigest(), self._size, self._chunk_bytes, b"".join(self._chunks))
