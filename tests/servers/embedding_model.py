"""A model that embeds, made of the built-in one: the same weights, with a key that says how its vectors are pooled."""

from __future__ import annotations

import struct
from pathlib import Path

from inference.demo import MODEL_PATH

MEAN, FIRST, LAST = 1, 2, 3
DIMENSIONS = 192


def embedding_model(into: Path, pooling: int = MEAN) -> Path:
    """Two entries more in the header, of 64 bytes together, so that the weights stay aligned."""
    data = MODEL_PATH.read_bytes()
    magic, version, tensors, entries = struct.unpack_from("<4sIQQ", data)
    key, pad = b"llama.pooling_type", b"tether.pad"
    more = struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, pooling)
    more += struct.pack("<Q", len(pad)) + pad + struct.pack("<IQ", 8, 0)
    assert len(more) == 64
    head = struct.pack("<4sIQQ", magic, version, tensors, entries + 2)
    into.write_bytes(head + more + data[24:])
    return into
