"""How an engine computes, and the name of it: engines with the same build tag give the same bytes for the same seed."""

from __future__ import annotations

import hashlib
from typing import Final

EXACT_CHUNK: Final = 32
"""Rows of a micro-batch in recipe R1: below 64, where ggml's flash attention changes its kernel (measured)."""
FAST_CHUNK: Final = 512


def build_tag(model_sha256: str, version: str, system_info: str, *, exact: bool) -> str:
    """model_sha256: hex; version: of llama-cpp-python, which pins llama.cpp; system_info: the CPU features in use."""
    features = hashlib.sha256(system_info.encode()).hexdigest()
    return f"{model_sha256[:12]}-llama.cpp{version}-{features[:8]}-{'r1' if exact else 'fast'}"
