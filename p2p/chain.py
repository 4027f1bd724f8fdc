"""The hash chain over an attempt's chunks: a receipt that names one link vouches for every chunk before it."""

from __future__ import annotations

import hashlib
from typing import Final

CHAIN_START: Final = bytes(32)
"""What the first chunk carries as prev_hash."""


def next_link(previous: bytes, payload: bytes) -> bytes:
    """The link after a chunk: BLAKE2b, 32 bytes, over the link before it and its sealed payload."""
    return hashlib.blake2b(previous + payload, digest_size=32).digest()
