"""Files made for the tests of this folder."""

from __future__ import annotations

import random

from inference.artifacts.chunks import Blob, Digester


def made(size: int, seed: int = 0) -> tuple[bytes, Blob]:
    """Random bytes, and the blob that they are."""
    data = random.Random(seed).randbytes(size)
    digester, at = Digester(size), 0
    for length in digester.spans():
        digester.add(data[at : at + length])
        at += length
    return data, digester.blob()


def cut(blob: Blob, data: bytes) -> list[bytes]:
    return [data[blob.offset(index) :][: blob.length(index)] for index in range(blob.count)]
