"""How an engine computes, and the name of it: engines with the same build tag give the same bytes for the same seed."""

from __future__ import annotations

import hashlib
from typing import Final, Literal

EXACT_CHUNK: Final = 32
"""Rows of a micro-batch in recipe R1: below 64, where ggml's flash attention changes its kernel (measured)."""
FAST_CHUNK: Final = 256
"""As fast as 512 (measured), and others wait half as long for it; slow models take less (speed.py)."""
FAST: Final = "fast"
EXACT_TYPES: Final = frozenset({2, 8})
"""Q4_0 and Q8_0: ggml multiplies one row of them as it does many. K-quants need plainer kernels for the whole engine,
which cost half of its prefill; F16 needs another build (docs/exactness.md)."""

ExactMode = Literal["auto", "on", "off"]


def may_be_exact(types: frozenset[int], mode: ExactMode) -> bool:
    """Whether to try. types: ggml's, of the tensors that are multiplied with."""
    return mode == "on" or (mode == "auto" and types <= EXACT_TYPES)


def build_tag(model_sha256: str, engine: str, system_info: str, *, exact: bool) -> str:
    """model_sha256: hex; engine: with its version; system_info: the CPU features in use."""
    features = hashlib.sha256(system_info.encode()).hexdigest()
    return f"{model_sha256[:12]}-{engine}-{features[:8]}-{'r1' if exact else FAST}"


def as_fast(tag: str) -> str:
    """The tag of what an exact engine computed the fast way."""
    return f"{tag.rpartition('-')[0]}-{FAST}"
