"""How much of a machine an engine takes: slots, context, threads. Pure: the shell brings what the machine has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from inference.gguf import GgufHeader
from inference.recipe import ExactMode

DEFAULT_CONTEXT_TOKENS: Final = 4_096
"""What slots get while there is memory for no more than MAX_SLOTS of them; what is left then makes them longer."""
MAX_SLOTS: Final = 16
"""Beyond it a CPU computes no more tokens a second, each answer only takes longer (measured)."""
MAX_CONTEXT_TOKENS: Final = 32_768
"""Longer ones, where the model can, are for the owner to ask for."""
KV_SHARE: Final = 0.5
"""Of the memory that is left beside the weights: the rest is for compute buffers, the daemon and other programs."""
SMALL_MODEL_PARAMETERS: Final = 50_000_000
"""Below it one thread is faster than two, and processes that share cores do not spin against each other (measured)."""


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """What the owner chose; None leaves it to `size_engine`. exact: reproducible to the bit; "auto": where it
    costs little and the self-test finds it so, "on": or the model is not served.

    max_tokens_per_second: over all requests of the engine. model_sha256: of the file, if it is known already. hang_s:
    how long an engine with work may keep silent before it is killed and started anew. memory_bytes: weights and slots.
    """

    slots: int | None = None
    threads: int | None = None
    context_tokens: int | None = None
    max_tokens_per_second: float | None = None
    exact: ExactMode = "auto"
    model_sha256: str = ""
    hang_s: float = 60.0
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """context_tokens: of each slot; need_bytes: weights and slots together."""

    slots: int
    context_tokens: int
    threads: int
    need_bytes: int


def size_engine(header: GgufHeader, settings: LlamaSettings, *, cores: int, free_bytes: int) -> Sizes:
    """Choose an engine's sizes. cores: that this process may use; free_bytes: memory available before loading."""
    budget = _kv_budget(header, settings, free_bytes)
    longest = min(settings.context_tokens or DEFAULT_CONTEXT_TOKENS, header.context_length)
    slots = settings.slots or max(1, min(MAX_SLOTS, budget // _slot_bytes(header, longest)))
    context = longest if settings.context_tokens else _stretched(header, longest, budget // slots)
    need_bytes = header.size_bytes + slots * _slot_bytes(header, context)
    return Sizes(slots, context, settings.threads or _threads(header, cores), need_bytes)


def _kv_budget(header: GgufHeader, settings: LlamaSettings, free_bytes: int) -> int:
    """For all slots. What the owner names is meant for this model in whole; of what is merely free, half is left."""
    if settings.memory_bytes is not None:
        return max(0, min(settings.memory_bytes, free_bytes) - header.size_bytes)
    return int(max(0, free_bytes - header.size_bytes) * KV_SHARE)


def _slot_bytes(header: GgufHeader, context_tokens: int) -> int:
    return max(1, header.kv_bytes_per_token * context_tokens)


def _stretched(header: GgufHeader, context_tokens: int, bytes_per_slot: int) -> int:
    """Double the context while the model and the memory of a slot allow it."""
    longest = min(header.context_length, MAX_CONTEXT_TOKENS)
    while (
        context_tokens < longest and _slot_bytes(header, min(2 * context_tokens, longest)) <= bytes_per_slot
    ):
        context_tokens = min(2 * context_tokens, longest)
    return context_tokens


def _threads(header: GgufHeader, cores: int) -> int:
    if header.parameters < SMALL_MODEL_PARAMETERS:
        return 1
    return cores - 1 if cores > 2 else cores
