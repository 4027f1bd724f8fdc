"""A model's weights as tensors, by GGUF's names: from safetensors, or from a GGUF whose types are undone here.

Every place in a file was checked by our own bounded readers; files are mapped, and each tensor is copied out once.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from inference.forward import LoadError
from inference.gguf import GgufContents
from inference.safetensors import read_safetensors
from inference.torch.shape import Shape

Tensor = Any
"""torch has no types where it is not installed."""
Weights = dict[str, Tensor]

_F32, _F16, _Q8_0, _BF16 = 0, 1, 8, 30
_TOP: Final = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_BLOCK: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def load_folder(
    folder: Path, shape: Shape, *, dtype: Tensor, device: str, told: Callable[[float], None]
) -> Weights:
    """All *.safetensors of a folder. Raises LoadError, TetherError(MODEL_INVALID)."""
    weights: Weights = {}
    files = sorted(folder.glob("*.safetensors"))
    for number, path in enumerate(files):
        header = read_safetensors(path)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for name, tensor in header.tensors.items():
                if name.endswith("rotary_emb.inv_freq"):
                    continue
                ours = ggml_name(name)
                if ours is None or ours in weights:
                    raise LoadError(f"it has the tensor {name[:64]!r}, which a Llama has not, or has twice")
                if tensor.dtype not in _TYPES or not tensor.shape:
                    raise LoadError(f"the tensor {name[:64]!r} is of the type {tensor.dtype}")
                raw = torch.frombuffer(bytearray(data[tensor.start : tensor.end]), dtype=_TYPES[tensor.dtype])
                weights[ours] = raw.reshape(tensor.shape).to(device=device, dtype=dtype)
                del raw
        told((number + 1) / len(files))
    return checked(weights, shape)


def load_gguf(
    path: Path,
    contents: GgufContents,
    shape: Shape,
    *,
    dtype: Tensor,
    device: str,
    told: Callable[[float], None],
) -> Weights:
    """Raises LoadError."""
    weights: Weights = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for number, (name, tensor) in enumerate(contents.tensors.items()):
            count = int(np.prod(tensor.shape, dtype=np.int64))
            values = _undone(data, tensor.kind, tensor.start, count, name)
            weights[name] = values.reshape(tensor.shape[::-1]).to(device=device, dtype=dtype)
            told((number + 1) / len(contents.tensors))
    return checked(weights, shape)


def ggml_name(name: str) -> str | None:
    """What GGUF calls a tensor of Hugging Face's; None for one that is none of a Llama."""
    if name in _TOP:
        return _TOP[name]
    start, _, rest = name.removeprefix("model.layers.").partition(".")
    role, _, kind = rest.rpartition(".")
    if not name.startswith("model.layers.") or not start.isdecimal() or role not in _BLOCK:
        return None
    return f"blk.{int(start)}.{_BLOCK[role]}.{kind}" if kind in ("weight", "bias") else None


def checked(weights: Weights, shape: Shape) -> Weights:
    """Exactly what the shape asks for; the output layer is the embedding where it has none. Raises LoadError."""
    weights.setdefault("output.weight", weights.get("token_embd.weight"))
    wanted = dict(_wanted(shape))
    for name, sides in wanted.items():
        if (
            (found := weights.get(name)) is None
            and not name.endswith(".bias")
            and name != "rope_freqs.weight"
        ):
            raise LoadError(f"it lacks the tensor {name}")
        if found is not None and tuple(found.shape) != sides:
            raise LoadError(f"the tensor {name} is {tuple(found.shape)}, and {sides} is wanted")
    if strange := weights.keys() - wanted.keys():
        raise LoadError(f"it has the tensor {min(strange)[:64]!r}, which a Llama has not")
    return weights


def _wanted(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    query, kv = shape.heads * shape.head, shape.kv_heads * shape.head
    yield "token_embd.weight", (shape.vocabulary, shape.width)
    yield "output.weight", (shape.vocabulary, shape.width)
    yield "output_norm.weight", (shape.width,)
    yield "rope_freqs.weight", (shape.head // 2,)
    sides = {"attn_q": (query, shape.width), "attn_k": (kv, shape.width), "attn_v": (kv, shape.width)}
    sides |= {"attn_output": (shape.width, query), "ffn_down": (shape.width, shape.feed_forward)}
    sides |= dict.fromkeys(("ffn_gate", "ffn_up"), (shape.feed_forward, shape.width))
    for layer in range(shape.layers):
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{norm}.weight", (shape.width,)
        for name, (rows, columns) in sides.items():
            yield f"blk.{layer}.{name}.weight", (rows, columns)
            yield f"blk.{layer}.{name}.bias", (rows,)


def _undone(data: mmap.mmap, kind: int, start: int, count: int, name: str) -> Tensor:
    """Q8_0: blocks of an f16 scale and 32 signed bytes (ggml-common.h)."""
    if kind == _Q8_0:
        blocks = np.frombuffer(data, np.dtype([("scale", "<f2"), ("values", "i1", 32)]), count // 32, start)
        values = blocks["values"].astype(np.float32) * blocks["scale"].astype(np.float32)[:, None]
        return torch.from_numpy(values.ravel())
    types = {_F32: torch.float32, _F16: torch.float16, _BF16: torch.bfloat16}
    if kind not in types:
        raise LoadError(
            f"the tensor {name[:64]!r} is quantized (type {kind}): torch takes F32, F16, BF16, Q8_0"
        )
    size = count * types[kind].itemsize
    return torch.frombuffer(bytearray(data[start : start + size]), dtype=types[kind])
