"""Models of real shapes with random weights: as much work as a real one, nothing to download.

The tokenizer and the chat template are those of the built-in model. The output rows of end-of-generation tokens are
zero, so that an answer is as long as it was asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

from inference.demo import MODEL_PATH

_COPIED: Final = "tokenizer."
_ALIGNMENT: Final = 32


def write_random_model(
    path: Path, *, dim: int, layers: int, heads: int, ff: int, context: int = 1024, single: bool = False
) -> int:
    """Write a llama-family GGUF, Q8_0 or in single precision; returns its parameters. dim and ff: multiples of 32."""
    source = gguf.GGUFReader(MODEL_PATH)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random")
    writer.add_context_length(context)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // heads)
    ends = _copy_tokenizer(source, writer)
    parameters = 0
    for name, tensor in _tensors(dim, layers, ff, _vocabulary(source), ends):
        parameters += tensor.size
        _add(writer, name, tensor, single)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return parameters


def _vocabulary(source: gguf.GGUFReader) -> int:
    return len(source.fields["tokenizer.ggml.tokens"].contents())


def _copy_tokenizer(source: gguf.GGUFReader, writer: gguf.GGUFWriter) -> list[int]:
    ends: list[int] = []
    for name, field in source.fields.items():
        if not name.startswith(_COPIED):
            continue
        value: Any = field.contents()
        if name.endswith(("eos_token_id", "eot_token_id", "eom_token_id")):
            ends.append(int(value))
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, field.types[0])
    return ends


def _tensors(dim: int, layers: int, ff: int, vocabulary: int, ends: list[int]) -> Any:
    random = np.random.default_rng(0)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> np.ndarray[Any, np.dtype[np.float32]]:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(
            scale * 0.6 / np.sqrt(columns)
        )

    ones = np.ones(dim, np.float32)
    yield "token_embd.weight", matrix(vocabulary, dim, 20.0)
    for index in range(layers):
        block = f"blk.{index}."
        yield block + "attn_norm.weight", ones
        yield block + "ffn_norm.weight", ones
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"{block}{name}.weight", matrix(dim, dim)
        yield block + "ffn_gate.weight", matrix(ff, dim)
        yield block + "ffn_up.weight", matrix(ff, dim)
        yield block + "ffn_down.weight", matrix(dim, ff)
    yield "output_norm.weight", ones
    output = matrix(vocabulary, dim, 4.0)
    output[ends] = 0.0
    yield "output.weight", output


def _add(
    writer: gguf.GGUFWriter, name: str, tensor: np.ndarray[Any, np.dtype[np.float32]], single: bool
) -> None:
    if single or tensor.ndim == 1:
        writer.add_tensor(name, tensor)
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
