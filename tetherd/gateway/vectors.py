"""Vectors of an embedding as they come, of one attempt or the next: each is taken once. Pure."""

from __future__ import annotations

from inference.embeddings import CHUNK_BYTES, FLOAT_BYTES
from p2p.content import ChunkBody
from p2p.errors import FRAME_INVALID, TetherError


class Vectors:
    """inputs: how many are due. dimensions: of each."""

    def __init__(self, inputs: int, dimensions: int) -> None:
        self._inputs = inputs
        self._size = dimensions * FLOAT_BYTES
        self._taken = 0

    def take(self, body: ChunkBody) -> tuple[bytes, ...]:
        """Those of a chunk that are new. Raises TetherError(FRAME_INVALID) for what nobody asked for."""
        first, last = body.position, body.position + len(body.vectors)
        sizes = [len(vector) for vector in body.vectors]
        if not 0 <= first <= self._taken or last > self._inputs or any(size != self._size for size in sizes):
            raise TetherError(FRAME_INVALID, "The worker sends vectors that were not asked for.")
        if sum(sizes) > max(CHUNK_BYTES, self._size):
            raise TetherError(FRAME_INVALID, "The worker sends too many vectors at once.")
        fresh = body.vectors[self._taken - first :]
        self._taken += len(fresh)
        return fresh
