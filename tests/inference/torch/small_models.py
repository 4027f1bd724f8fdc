"""Two small models of random weights, each as a safetensors folder and as the equal GGUF in single precision."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inference.gguf_file import Value, gguf_bytes
from inference.torch.tokens import vocabulary_of
from inference.torch.weights import ggml_name

Arrays = dict[str, np.ndarray[Any, np.dtype[np.float32]]]
WORDS = ("he", "ll", "th", "in", "er", "on")


@dataclass(frozen=True)
class Small:
    """family: llama or qwen2, whose q, k and v have biases. tied: the output layer is the embedding."""

    family: str
    heads: int
    kv_heads: int
    head: int
    layers: int
    feed_forward: int
    tied: bool
    seed: int
    llama3: bool = False

    @property
    def width(self) -> int:
        return self.heads * self.head


LLAMA = Small("llama", heads=6, kv_heads=2, head=16, layers=3, feed_forward=160, tied=False, seed=1)
QWEN = Small("qwen2", heads=4, kv_heads=4, head=32, layers=2, feed_forward=256, tied=True, seed=2)
LONG = Small(
    "llama", heads=4, kv_heads=1, head=32, layers=2, feed_forward=192, tied=True, seed=3, llama3=True
)
CONTEXT = 512
EPSILON, BASE = 1e-5, 10_000.0
SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def write_folder(folder: Path, small: Small) -> Path:
    folder.mkdir()
    tokenizer = byte_tokenizer()
    size = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
    arrays = _arrays(small, size)
    config = {
        "model_type": small.family,
        "vocab_size": size,
        "hidden_size": small.width,
        "num_hidden_layers": small.layers,
        "num_attention_heads": small.heads,
        "num_key_value_heads": small.kv_heads,
        "head_dim": small.head,
        "intermediate_size": small.feed_forward,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPSILON,
        "rope_theta": BASE,
        "rope_scaling": SCALING if small.llama3 else None,
        "hidden_act": "silu",
        "eos_token_id": size - 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
    settings = {"eos_token": "<|end|>", "add_bos_token": False, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    write_safetensors(folder / "model.safetensors", arrays)
    return folder


def write_safetensors(path: Path, arrays: Arrays) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(one.tobytes() for one in arrays.values()))


def write_gguf(path: Path, folder: Path, small: Small) -> Path:
    """From the folder's vocabulary, and its weights in llama.cpp's order: Llama's heads with neighbours as pairs."""
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    family = small.family
    values: dict[str, Value] = vocabulary_of(folder, size) | {
        "general.architecture": family,
        f"{family}.context_length": CONTEXT,
        f"{family}.embedding_length": small.width,
        f"{family}.block_count": small.layers,
        f"{family}.feed_forward_length": small.feed_forward,
        f"{family}.attention.head_count": small.heads,
        f"{family}.attention.head_count_kv": small.kv_heads,
        f"{family}.attention.key_length": small.head,
        f"{family}.attention.value_length": small.head,
        f"{family}.attention.layer_norm_rms_epsilon": EPSILON,
        f"{family}.rope.freq_base": BASE,
        f"{family}.rope.dimension_count": small.head,
        f"{family}.vocab_size": size,
    }
    tensors: Arrays = {}
    for name, array in _arrays(small, size).items():
        ours = ggml_name(name)
        assert ours is not None
        if family == "llama" and (".attn_q." in ours or ".attn_k." in ours):
            array = (
                array.reshape(-1, 2, small.head // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
            )
        tensors[ours] = np.ascontiguousarray(array)
    if small.llama3:
        tensors["rope_freqs.weight"] = _slowing(small.head)
    path.write_bytes(gguf_bytes(values, tensors))
    return path


def byte_tokenizer() -> dict[str, Any]:
    """Bytes as GPT-2 writes them, a few merges, and control tokens."""
    letters = _letters()
    vocabulary = {letter: token for token, letter in enumerate(letters)}
    for word in WORDS:
        vocabulary[word] = len(vocabulary)
    controls = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    return {
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [" ".join(word) for word in WORDS]},
        "pre_tokenizer": _BYTES,
        "decoder": _BYTES,
        "added_tokens": [
            {"id": len(vocabulary) + number, "content": control, "special": True}
            | {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            for number, control in enumerate(controls)
        ],
    }


def _letters() -> list[str]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + number) for number in range(len(others))]


def _arrays(small: Small, size: int) -> Arrays:
    chance = np.random.default_rng(small.seed)
    query, kv, width = small.heads * small.head, small.kv_heads * small.head, small.width

    def matrix(rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (chance.standard_normal((rows, columns)) * 1.5 / columns**0.5).astype(np.float32)

    def gain(length: int, around: float = 1.0) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (around + 0.1 * chance.standard_normal(length)).astype(np.float32)

    arrays: Arrays = {"model.embed_tokens.weight": matrix(size, width), "model.norm.weight": gain(width)}
    if not small.tied:
        arrays["lm_head.weight"] = matrix(size, width)
    for layer in range(small.layers):
        at = f"model.layers.{layer}."
        arrays[f"{at}input_layernorm.weight"] = gain(width)
        arrays[f"{at}post_attention_layernorm.weight"] = gain(width)
        for role, rows in (("q", query), ("k", kv), ("v", kv)):
            arrays[f"{at}self_attn.{role}_proj.weight"] = matrix(rows, width)
            if small.family == "qwen2":
                arrays[f"{at}self_attn.{role}_proj.bias"] = gain(rows, 0.0)
        arrays[f"{at}self_attn.o_proj.weight"] = matrix(width, query)
        arrays[f"{at}mlp.gate_proj.weight"] = matrix(small.feed_forward, width)
        arrays[f"{at}mlp.up_proj.weight"] = matrix(small.feed_forward, width)
        arrays[f"{at}mlp.down_proj.weight"] = matrix(width, small.feed_forward)
    return arrays


def _slowing(head: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """As convert_hf_to_gguf.py writes it: by how much each pair turns slower."""
    factors = []
    for pair in range(0, head, 2):
        wave = 2 * np.pi * BASE ** (pair / head)
        low, high = 128 / 1.0, 128 / 4.0
        if wave < high:
            factors.append(1.0)
        elif wave > low:
            factors.append(8.0)
        else:
            smooth = (128 / wave - 1.0) / (4.0 - 1.0)
            factors.append(1 / ((1 - smooth) / 8.0 + smooth))
    return np.array(factors, np.float32)
