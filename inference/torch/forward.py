"""The forward pass of a Llama over rows of tokens, with a static cache for each slot.

A row is one token at one position of one slot. The matrices see all rows of a step at once; attention looks at each
slot's own past. rows ──> embed ──> [norm, rotate q k, attend, norm, SwiGLU] x layers ──> norm ──> logits
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from inference.forward import Rows
from inference.native import Candidates
from inference.torch.shape import Shape
from inference.torch.weights import Tensor, Weights
from p2p.content import Sampling


@dataclass(frozen=True, slots=True)
class TorchLogits:
    """One row's, already in this process's memory."""

    row: np.ndarray[Any, np.dtype[np.float32]]

    def values(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        return self.row

    def argmax(self) -> int:
        return int(self.row.argmax())

    def draw(self, sampling: Sampling, seed: int) -> int:
        return Candidates.weighed(self.row).draw(sampling, seed)


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows [start, end) of a step, all of one slot; upto: positions of the slot that the last of them may see."""

    slot: int
    start: int
    end: int
    upto: int


class TorchContext:
    """together: slots that decode attend in one padded call, which suits a GPU; else each alone, without padding."""

    def __init__(
        self, weights: Weights, shape: Shape, *, slots: int, context_tokens: int, together: bool
    ) -> None:
        embedding = weights["token_embd.weight"]
        self._weights, self._shape, self._together = weights, shape, together
        self._device, self._dtype = embedding.device, embedding.dtype
        sides = (shape.layers, slots, shape.kv_heads, context_tokens, shape.head)
        # Zeroed, because what a padded call reads beyond a slot's end is weighed with 0, and 0 times NaN is NaN.
        self._keys = torch.zeros(sides, dtype=self._dtype, device=self._device)
        self._values = torch.zeros(sides, dtype=self._dtype, device=self._device)
        turns = torch.tensor(shape.frequencies(), dtype=torch.float64)
        if (slowed := weights.get("rope_freqs.weight")) is not None:
            turns = turns / slowed.double().cpu()
        angles = torch.outer(torch.arange(context_tokens, dtype=torch.float64), turns)
        self._cos, self._sin = (part.float().to(self._device) for part in (angles.cos(), angles.sin()))
        self._logits: list[TorchLogits] = []

    def decode(self, rows: Rows, *, exact: bool) -> None:
        """exact: each row alone, so that no matrix product has another shape in company."""
        self._logits = []
        with torch.inference_mode():
            for part in _each(rows) if exact else (rows,):
                self._pass(part)

    def abandon(self) -> None:
        """Nothing to do: torch computes a step to its end."""

    def logits(self, index: int) -> TorchLogits:
        return self._logits[index]

    def best(self) -> list[int]:
        return [told.argmax() for told in self._logits]

    def keep(self, slot: int, tokens: int) -> None:
        """Nothing to do: what is beyond is never looked at before it is written anew."""

    def copy(self, source: int, target: int) -> None:
        for cache in (self._keys, self._values):
            cache[:, target].copy_(cache[:, source])

    def _pass(self, rows: Rows) -> None:
        shape, weights, device = self._shape, self._weights, self._device
        positions = torch.tensor(rows.positions, device=device)
        slots = torch.tensor(rows.slots, device=device)
        turn = self._cos[positions][:, None], self._sin[positions][:, None]
        runs = _runs(rows)
        mask = _mask(positions, max(run.upto for run in runs))
        tokens = torch.tensor(rows.tokens, device=device)
        x = functional.embedding(tokens, weights["token_embd.weight"])
        for layer in range(shape.layers):
            h = self._norm(x, f"blk.{layer}.attn_norm")
            query, key, value = (
                self._linear(h, f"blk.{layer}.attn_{role}").view(len(rows), -1, shape.head) for role in "qkv"
            )
            query, key = (_rotate(part, turn, shape.interleaved) for part in (query, key))
            self._keys[layer][slots, :, positions] = key
            self._values[layer][slots, :, positions] = value
            mixed = self._attend(layer, query, runs, mask, slots)
            x = x + self._linear(mixed, f"blk.{layer}.attn_output")
            h = self._norm(x, f"blk.{layer}.ffn_norm")
            gate = functional.silu(self._linear(h, f"blk.{layer}.ffn_gate"))
            x = x + self._linear(gate * self._linear(h, f"blk.{layer}.ffn_up"), f"blk.{layer}.ffn_down")
        if rows.wanted:
            last = self._norm(x[rows.wanted], "output_norm")
            self._logits += map(TorchLogits, self._linear(last, "output").float().cpu().numpy())

    def _attend(self, layer: int, query: Tensor, runs: list[_Run], mask: Tensor, slots: Tensor) -> Tensor:
        """query: (rows, heads, head) -> (rows, heads * head)."""
        keys, values = self._keys[layer], self._values[layer]
        if self._together and len(runs) > 1 and len(runs) == len(query):
            longest = mask.shape[-1]
            mixed = _scaled(
                query[:, :, None], keys[slots, :, :longest], values[slots, :, :longest], mask[:, None, None]
            )
            return mixed.flatten(1)
        parts = [
            _scaled(
                query[run.start : run.end].transpose(0, 1)[None],
                keys[run.slot, None, :, : run.upto],
                values[run.slot, None, :, : run.upto],
                None if run.end - run.start == 1 else mask[run.start : run.end, : run.upto],
            )[0].transpose(0, 1)
            for run in runs
        ]
        return torch.cat(parts).flatten(1)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(
            x, (self._shape.width,), self._weights[f"{name}.weight"], self._shape.epsilon
        )

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"))


def _each(rows: Rows) -> Iterator[Rows]:
    """Every row by itself."""
    wanted = set(rows.wanted)
    for index, (token, position, slot) in enumerate(
        zip(rows.tokens, rows.positions, rows.slots, strict=True)
    ):
        yield Rows([token], [position], [slot], [0] if index in wanted else [])


def _runs(rows: Rows) -> list[_Run]:
    runs: list[_Run] = []
    for slot, group in groupby(range(len(rows)), key=rows.slots.__getitem__):
        own = list(group)
        runs.append(_Run(slot, own[0], own[-1] + 1, rows.positions[own[-1]] + 1))
    return runs


def _mask(positions: Tensor, longest: int) -> Tensor:
    """Who sees whom: (rows, longest), true where a position is not after the row's own."""
    return torch.arange(longest, device=positions.device) <= positions[:, None]


def _scaled(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor], interleaved: bool) -> Tensor:
    """x: (rows, heads, head); in single precision, whatever x is."""
    cos, sin = turn
    plain = x.float()
    if interleaved:
        first, second = plain[..., 0::2], plain[..., 1::2]
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), -1).flatten(-2)
    else:
        first, second = plain.chunk(2, -1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return turned.to(x.dtype)
