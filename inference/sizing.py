"""How much of a machine an engine takes: slots, context, threads, layers on a GPU. Pure: the shell brings a Device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from inference.device import Device
from inference.gguf import GgufHeader
from inference.recipe import FAST_CHUNK, ExactMode

DEFAULT_CONTEXT_TOKENS: Final = 4_096
"""What slots get while there is memory for no more than MAX_SLOTS of them; what is left then makes them longer."""
LEAST_CONTEXT_TOKENS: Final = 1_024
"""A single slot that memory is short for gets less of it, down to this."""
MAX_SLOTS: Final = 16
"""Beyond it a CPU computes no more tokens a second, each answer only takes longer (measured)."""
MAX_CONTEXT_TOKENS: Final = 32_768
"""Longer ones, where the model can, are for the owner to ask for."""
KV_SHARE: Final = 0.5
"""Of the memory that is left beside the weights: the rest is for compute buffers, the daemon and other programs."""
PROCESS_BYTES: Final = 96 << 20
"""An engine process without its model: Python, numpy and llama.cpp (measured: 80 MB)."""
SMALL_MODEL_PARAMETERS: Final = 50_000_000
"""Below it one thread is faster than two, and processes that share cores do not spin against each other (measured)."""
GPU_SHARE: Final = 0.85
"""Of a GPU's free memory, for weights and slots: compute buffers and the driver take the rest."""
ALL_LAYERS: Final = 999
"""llama.cpp's own way to say so: the output layer counts as one, too."""


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """What the owner chose; None leaves it to `size_engine`. exact: reproducible to the bit; "auto": where it
    costs little and the self-test finds it so, "on": or the model is not served.

    max_tokens_per_second: over all requests of the engine. model_sha256: of the file, if it is known already. hang_s:
    how long an engine with work may keep silent before it is killed and started anew. memory_bytes: the whole process.
    """

    slots: int | None = None
    threads: int | None = None
    context_tokens: int | None = None
    max_tokens_per_second: float | None = None
    exact: ExactMode = "auto"
    model_sha256: str = ""
    hang_s: float = 60.0
    memory_bytes: int | None = None
    gpu_layers: int | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """context_tokens: of each slot; need_bytes: of the machine's memory, the whole process; gpu_layers: 0 for none."""

    slots: int
    context_tokens: int
    threads: int
    need_bytes: int
    gpu_layers: int = 0


def size_engine(header: GgufHeader, settings: LlamaSettings, device: Device) -> Sizes:
    """Choose an engine's sizes; device: as it is before loading."""
    budget = _kv_budget(header, settings, device.free_bytes)
    wanted = min(settings.context_tokens or DEFAULT_CONTEXT_TOKENS, header.context_length)
    context = wanted if settings.context_tokens else _shortened(header, wanted, budget)
    slots = settings.slots or max(1, min(MAX_SLOTS, budget // _slot_bytes(header, context)))
    if context == wanted and not settings.context_tokens and not header.embeds:
        context = _stretched(header, context, budget // slots)
    kv_bytes = slots * _slot_bytes(header, context)
    return Sizes(
        slots,
        context,
        settings.threads or _threads(header, device.cores),
        _weights_bytes(header) + kv_bytes,
        _layers(header, kv_bytes, device) if settings.gpu_layers is None else settings.gpu_layers,
    )


def plan_engine(header: GgufHeader, settings: LlamaSettings, device: Device) -> tuple[Sizes, LlamaSettings]:
    """Choose now, for a load that may come later: the settings returned leave nothing open."""
    sizes = size_engine(header, settings, device)
    return sizes, replace(
        settings,
        slots=sizes.slots,
        context_tokens=sizes.context_tokens,
        threads=sizes.threads,
        gpu_layers=sizes.gpu_layers,
    )


def least_bytes(header: GgufHeader) -> int:
    """What a model takes with one slot of the usual length."""
    return _weights_bytes(header) + _slot_bytes(header, min(DEFAULT_CONTEXT_TOKENS, header.context_length))


def budget_for(least: Sequence[int], lent_bytes: int | None, free_bytes: int) -> int:
    """What all engines together may take. least: bytes of each; lent_bytes: what the owner named.

    Of what is merely free, half is left beside the largest of them.
    """
    if lent_bytes is not None:
        return lent_bytes
    largest = max(least, default=0)
    return largest + int(max(0, free_bytes - largest) * KV_SHARE)


def share(least: Sequence[int], budget: int) -> list[int]:
    """What each engine may take of the budget, so that all run at a time where that is possible.

    Where it is not, each gets an even part of what it would have alone: the smaller ones then still run together.
    """
    count = max(1, len(least))
    rest = budget - sum(least)
    if rest >= 0:
        return [own + rest // count for own in least]
    return [own + max(0, budget - own) // count for own in least]


def _weights_bytes(header: GgufHeader) -> int:
    """Also of the buffer for the logits of a whole chunk, which grows with the vocabulary."""
    return PROCESS_BYTES + header.size_bytes + FAST_CHUNK * header.vocabulary * 4


def _kv_budget(header: GgufHeader, settings: LlamaSettings, free_bytes: int) -> int:
    """For all slots. What the owner names is meant for this model in whole; of what is merely free, half is left."""
    if settings.memory_bytes is not None:
        return max(0, min(settings.memory_bytes, free_bytes) - _weights_bytes(header))
    return int(max(0, free_bytes - header.size_bytes) * KV_SHARE)


def _slot_bytes(header: GgufHeader, context_tokens: int) -> int:
    return max(1, header.kv_bytes_per_token * context_tokens)


def _shortened(header: GgufHeader, context_tokens: int, budget: int) -> int:
    """Halve the context while not even one slot of it has room."""
    while context_tokens > LEAST_CONTEXT_TOKENS and _slot_bytes(header, context_tokens) > budget:
        context_tokens = max(LEAST_CONTEXT_TOKENS, context_tokens // 2)
    return context_tokens


def _stretched(header: GgufHeader, context_tokens: int, bytes_per_slot: int) -> int:
    """Double the context while the model and the memory of a slot allow it."""
    longest = min(header.context_length, MAX_CONTEXT_TOKENS)
    while (
        context_tokens < longest and _slot_bytes(header, min(2 * context_tokens, longest)) <= bytes_per_slot
    ):
        context_tokens = min(2 * context_tokens, longest)
    return context_tokens


def _threads(header: GgufHeader, cores: int) -> int:
    """One core is left to the daemon, where there are enough."""
    if header.parameters < SMALL_MODEL_PARAMETERS:
        return 1
    return cores - 1 if cores > 2 else cores


def _layers(header: GgufHeader, kv_bytes: int, device: Device) -> int:
    """As many as the first GPU holds, each with its part of every slot; all of them where they fit."""
    if not device.gpus or not header.layers:
        return 0
    per_layer = max(1, (header.size_bytes + kv_bytes) // header.layers)
    fitting = int(device.gpus[0].free_bytes * GPU_SHARE) // per_layer
    return ALL_LAYERS if fitting > header.layers else fitting
