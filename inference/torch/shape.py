"""What a Llama-family model looks like, from a GGUF's metadata or a Hugging Face config.json. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from inference.forward import LoadError

FAMILIES: Final = ("llama", "mistral", "qwen2")
MAX_SIDE: Final = 1 << 20
"""Of any size: beyond, no model is."""


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Long waves are slowed, short ones kept (Llama 3.1). original: tokens of the context before."""

    factor: float
    low: float
    high: float
    original: int


@dataclass(frozen=True, slots=True)
class Shape:
    """interleaved: a head's neighbours turn together, as ggml lays Llama out; else its halves do.

    slowed: all positions are divided by it (linear scaling).
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    feed_forward: int
    context: int
    epsilon: float
    rope_base: float
    interleaved: bool
    slowed: float = 1.0
    llama3: Llama3Scaling | None = None

    def __post_init__(self) -> None:
        sizes = (self.vocabulary, self.width, self.layers, self.heads, self.kv_heads, self.head)
        if not all(0 < size <= MAX_SIDE for size in (*sizes, self.feed_forward)) or self.context < 1:
            raise LoadError("its sizes are impossible")
        if self.heads % self.kv_heads or self.head % 2:
            raise LoadError(f"{self.heads} heads do not share {self.kv_heads}, or a head is odd")
        if not (self.epsilon > 0 and self.rope_base > 1 and self.slowed > 0):
            raise LoadError("its epsilon or its rotation is impossible")

    @property
    def kv_elements(self) -> int:
        """Of one token, in all layers."""
        return self.layers * self.kv_heads * self.head * 2

    def frequencies(self) -> list[float]:
        """Radians a position, one for each pair of a head."""
        plain = [self.rope_base ** (-pair / self.head) / self.slowed for pair in range(0, self.head, 2)]
        return plain if self.llama3 is None else [_scaled(one, self.llama3) for one in plain]


def from_gguf(values: Mapping[str, Any], vocabulary: int) -> Shape:
    """Raises LoadError."""
    family = values.get("general.architecture")
    if family not in ("llama", "qwen2"):
        raise LoadError(f"it is of the family {str(family)[:32]!r}, and torch here computes llama and qwen2")
    if values.get(f"{family}.expert_count", 0):
        raise LoadError("it is a mixture of experts")

    def number(key: str, default: float | None = None) -> float:
        return _number(values.get(f"{family}.{key}", default), key)

    heads, width = int(number("attention.head_count")), int(number("embedding_length"))
    head = int(number("attention.key_length", width // max(1, heads)))
    if number("rope.dimension_count", head) != head or number("attention.value_length", head) != head:
        raise LoadError("only a part of its heads turns")
    kind = values.get(f"{family}.rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise LoadError(f"its rotation is scaled by {str(kind)[:32]!r}")
    return Shape(
        vocabulary=vocabulary,
        width=width,
        layers=int(number("block_count")),
        heads=heads,
        kv_heads=int(number("attention.head_count_kv", heads)),
        head=head,
        feed_forward=int(number("feed_forward_length")),
        context=int(number("context_length")),
        epsilon=number("attention.layer_norm_rms_epsilon"),
        rope_base=number("rope.freq_base", 10_000.0),
        interleaved=family == "llama",
        slowed=number("rope.scaling.factor", 1.0) if kind == "linear" else 1.0,
    )


def from_config(config: Mapping[str, Any]) -> Shape:
    """config: the decoded config.json. Raises LoadError."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise LoadError(
            f"it is of the family {str(family)[:32]!r}, and torch here computes {', '.join(FAMILIES)}"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise LoadError("its activation is not silu")
    context = int(_number(config.get("max_position_embeddings"), "max_position_embeddings"))
    window = config.get("sliding_window")
    if window is not None and config.get("use_sliding_window", family == "mistral"):
        context = min(context, int(_number(window, "sliding_window")))

    def number(key: str, default: float | None = None) -> float:
        given = config.get(key)
        return _number(default if given is None else given, key)

    heads, width = int(number("num_attention_heads")), int(number("hidden_size"))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise LoadError("its rope_scaling is no object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise LoadError(f"its rotation is scaled by {str(kind)[:32]!r}")
    return Shape(
        vocabulary=int(number("vocab_size")),
        width=width,
        layers=int(number("num_hidden_layers")),
        heads=heads,
        kv_heads=int(number("num_key_value_heads", heads)),
        head=int(number("head_dim", width // max(1, heads))),
        feed_forward=int(number("intermediate_size")),
        context=context,
        epsilon=number("rms_norm_eps", 1e-6),
        rope_base=_number(rope.get("rope_theta", config.get("rope_theta", 10_000.0)), "rope_theta"),
        interleaved=False,
        slowed=_number(rope.get("factor"), "factor") if kind == "linear" else 1.0,
        llama3=_llama3(rope) if kind == "llama3" else None,
    )


def _llama3(rope: Mapping[str, Any]) -> Llama3Scaling:
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, original = (_number(rope.get(name), name) for name in names)
    if not (factor >= 1 and 0 < low < high and original >= 1):
        raise LoadError("its rope_scaling is impossible")
    return Llama3Scaling(factor, low, high, int(original))


def _scaled(frequency: float, scaling: Llama3Scaling) -> float:
    wave = 2 * math.pi / frequency
    if wave < scaling.original / scaling.high:
        return frequency
    if wave > scaling.original / scaling.low:
        return frequency / scaling.factor
    smooth = (scaling.original / wave - scaling.low) / (scaling.high - scaling.low)
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise LoadError(f"its {key} is no number")
    return value
