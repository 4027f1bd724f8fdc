"""Draws the next token. Seeded anew at every position, so that an answer can be continued anywhere.

A sampler that carried its random state along would have to be moved with the answer; drawing position n from
blake2b(seed, n) needs nothing but the request. Making and freeing the chain costs 13 to 69 µs a token (measured).
"""

from __future__ import annotations

import hashlib
from typing import Final

from inference.native import Logits, sample
from p2p.messages import Sampling

_SEEDS: Final = 0xFFFF_FFFF
"""llama.cpp takes the 32-bit seed 0xFFFFFFFF for "draw one": seeds are taken below it."""


def position_seed(seed: int, position: int) -> int:
    """The seed of one position: BLAKE2b of request seed and position, below 2**32 - 1."""
    words = (seed % (1 << 64)).to_bytes(8, "little") + position.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little") % _SEEDS


def next_token(logits: Logits, sampling: Sampling, position: int) -> int:
    """Draw the token at position (of the answer). Greedy takes the lowest id among equals."""
    if sampling.temperature <= 0.0:
        return logits.argmax()
    return sample(logits, sampling, position_seed(sampling.seed, position))
