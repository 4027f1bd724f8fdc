"""How much of a machine an engine takes: slots, context, threads. Pure: the shell brings what the machine has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from inference.gguf import GgufHeader

DEFAULT_CONTEXT_TOKENS: Final = 4_096
DEFAULT_SLOTS: Final = 4
KV_SHARE: Final = 0.5
"""Of the memory that is left beside the weights: the rest is for compute buffers, the daemon and other programs."""
SMALL_MODEL_PARAMETERS: Final = 50_000_000
"""Below it one thread is faster than two, and processes that share cores do not spin against each other (measured)."""


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """What the owner chose; None leaves it to `size_engine`. exact: answers that are reproducible to the bit.

    max_tokens_per_second: over all requests of the engine. model_sha256: of the file, if it is known already. hang_s:
    how long an engine with work may keep silent before it is killed and started anew.
    """

    slots: int | None = None
    threads: int | None = None
    context_tokens: int | None = None
    max_tokens_per_second: float | None = None
    exact: bool = True
    model_sha256: str = ""
    hang_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """context_tokens: of each slot."""

    slots: int
    context_tokens: int
    threads: int


def size_engine(header: GgufHeader, settings: LlamaSettings, *, cores: int, free_bytes: int) -> Sizes:
    """Choose an engine's sizes. cores: that this process may use; free_bytes: memory available before loading."""
    context = min(settings.context_tokens or DEFAULT_CONTEXT_TOKENS, header.context_length)
    slots = settings.slots or _slots_that_fit(header, context, free_bytes)
    return Sizes(slots, context, settings.threads or _threads(header, cores))


def _slots_that_fit(header: GgufHeader, context_tokens: int, free_bytes: int) -> int:
    budget = max(0, free_bytes - header.size_bytes) * KV_SHARE
    bytes_per_slot = max(1, header.kv_bytes_per_token * context_tokens)
    return max(1, min(DEFAULT_SLOTS, int(budget // bytes_per_slot)))


def _threads(header: GgufHeader, cores: int) -> int:
    if header.parameters < SMALL_MODEL_PARAMETERS:
        return 1
    return cores - 1 if cores > 2 else cores
