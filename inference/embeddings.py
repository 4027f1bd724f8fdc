"""Which inputs of an embedding are computed together, and which vectors travel together. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from inference.engine import Input

MAX_INPUTS: Final = 2_048
"""OpenAI's own limit."""
CHUNK_BYTES: Final = 64 << 10
"""Of vectors in one chunk; a quarter of a call's credit."""
FLOAT_BYTES: Final = 4


def batches(inputs: Sequence[Input], slots: int, tokens: int) -> Iterator[tuple[Input, ...]]:
    """In order, as many at a time as there are slots and a step has tokens; an input is never cut."""
    batch: list[Input] = []
    held = 0
    for one in inputs:
        if batch and (len(batch) == slots or held + len(one.ids) > tokens):
            yield tuple(batch)
            batch, held = [], 0
        batch.append(one)
        held += len(one.ids)
    if batch:
        yield tuple(batch)


def parcels(vectors: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    """In order, at most CHUNK_BYTES each, and at least one vector."""
    parcel: list[bytes] = []
    for vector in vectors:
        if parcel and (len(parcel) + 1) * len(vector) > CHUNK_BYTES:
            yield tuple(parcel)
            parcel = []
        parcel.append(vector)
    if parcel:
        yield tuple(parcel)
