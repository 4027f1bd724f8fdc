"""tether-demo as a function of its weights: a small Llama, written so that every name is already GGUF's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

# torch has no types where it is not installed, and only `make demo-model` installs it.
Tensor = Any
Weights = dict[str, Tensor]

EPSILON = 1e-5
ROPE_BASE = 10_000.0
LONGEST_PLAIN = 512


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model. width and feed_forward are multiples of 32, Q8_0's block; a head is 32 wide."""

    vocabulary: int
    width: int = 192
    layers: int = 5
    feed_forward: int = 512
    head: int = 32

    @property
    def heads(self) -> int:
        return self.width // self.head


def initial(shape: Shape, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> Tensor:
        weights = torch.randn(rows, columns, generator=generator) * (0.5 * scale / columns**0.5)
        return weights.requires_grad_()

    def ones() -> Tensor:
        return torch.ones(shape.width, requires_grad=True)

    weights = {"token_embd.weight": matrix(shape.vocabulary, shape.width), "output_norm.weight": ones()}
    # The two matrices that write into the residual stream start small, so that depth does not add up.
    quiet = (2 * shape.layers) ** -0.5
    for layer in range(shape.layers):
        weights |= {
            f"blk.{layer}.attn_norm.weight": ones(),
            f"blk.{layer}.attn_q.weight": matrix(shape.width, shape.width),
            f"blk.{layer}.attn_k.weight": matrix(shape.width, shape.width),
            f"blk.{layer}.attn_v.weight": matrix(shape.width, shape.width),
            f"blk.{layer}.attn_output.weight": matrix(shape.width, shape.width, quiet),
            f"blk.{layer}.ffn_norm.weight": ones(),
            f"blk.{layer}.ffn_gate.weight": matrix(shape.feed_forward, shape.width),
            f"blk.{layer}.ffn_up.weight": matrix(shape.feed_forward, shape.width),
            f"blk.{layer}.ffn_down.weight": matrix(shape.width, shape.feed_forward, quiet),
        }
    return weights


def hidden(weights: Weights, shape: Shape, ids: Tensor) -> Tensor:
    """ids: (rows, length) -> the normed last layer, (rows, length, width)."""
    rows, length = ids.shape
    rotation = _rotation(length, shape.head)

    def heads(x: Tensor) -> Tensor:
        return x.view(rows, length, shape.heads, shape.head).transpose(1, 2)

    x = functional.embedding(ids, weights["token_embd.weight"])
    for layer in range(shape.layers):
        block = {name: weights[f"blk.{layer}.{name}.weight"] for name in _BLOCK}
        h = _norm(x, block["attn_norm"])
        query, key, value = (heads(functional.linear(h, block[f"attn_{role}"])) for role in "qkv")
        mixed = _attend(_rotate(query, rotation), _rotate(key, rotation), value)
        joined = mixed.transpose(1, 2).reshape(rows, length, shape.width)
        x = x + functional.linear(joined, block["attn_output"])
        h = _norm(x, block["ffn_norm"])
        gated = functional.silu(functional.linear(h, block["ffn_gate"])) * functional.linear(
            h, block["ffn_up"]
        )
        x = x + functional.linear(gated, block["ffn_down"])
    return _norm(x, weights["output_norm.weight"])


def logits(weights: Weights, states: Tensor) -> Tensor:
    """The embedding read backwards: the output layer is tied to it."""
    return functional.linear(states, weights["token_embd.weight"])


_BLOCK = (
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
)


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * gain


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention. The fused kernel costs twice the plain products while rows are short, on a CPU."""
    rows, heads, length, head = query.shape
    if length > LONGEST_PLAIN:
        fused: Tensor = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return fused
    scores = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)) * head**-0.5
    future = torch.full((length, length), -1e4, dtype=scores.dtype).triu(1)
    shares = torch.softmax(scores + future, -1, dtype=scores.dtype)
    return torch.bmm(shares, value.flatten(0, 1)).view(rows, heads, length, head)


def _rotation(length: int, head: int) -> Tensor:
    """Unit complex numbers, (length, head / 2)."""
    frequencies = ROPE_BASE ** (-torch.arange(0, head, 2) / head)
    angles = torch.outer(torch.arange(length), frequencies)
    return torch.polar(torch.ones_like(angles), angles)


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Neighbouring pairs turn together, which is ggml's order for Llama."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)
