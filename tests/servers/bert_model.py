"""A small BERT of random weights: an encoder with word pieces, as embedding models mostly are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inference.gguf_file import Value, gguf_bytes

WIDTH, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 64, 3, 4, 128, 128
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!"
_WORDS = tuple(f"▁{letter}" for letter in _LETTERS) + tuple(_LETTERS) + ("▁once", "▁upon", "▁the", "ing")
TOKENS = _SPECIAL + _WORDS
CLS, SEP = 2, 3


def bert_model(into: Path, pooling: int) -> Path:
    random = np.random.default_rng(7)

    def drawn(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    arrays = {
        "token_embd.weight": drawn(len(TOKENS), WIDTH) * 8,
        "token_types.weight": drawn(2, WIDTH),
        "position_embd.weight": drawn(CONTEXT, WIDTH),
        "token_embd_norm.weight": ones,
        "token_embd_norm.bias": zeros,
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            arrays |= {f"{block}{name}.weight": drawn(WIDTH, WIDTH), f"{block}{name}.bias": drawn(WIDTH)}
        for name in ("attn_output_norm", "layer_output_norm"):
            arrays |= {f"{block}{name}.weight": ones, f"{block}{name}.bias": zeros}
        arrays |= {
            f"{block}ffn_up.weight": drawn(FEED_FORWARD, WIDTH),
            f"{block}ffn_up.bias": drawn(FEED_FORWARD),
        }
        arrays |= {
            f"{block}ffn_down.weight": drawn(WIDTH, FEED_FORWARD),
            f"{block}ffn_down.bias": drawn(WIDTH),
        }
    into.write_bytes(gguf_bytes(_metadata(pooling), arrays))
    return into


def _metadata(pooling: int) -> dict[str, Value]:
    return {
        "general.architecture": "bert",
        "general.name": "small bert",
        "bert.context_length": CONTEXT,
        "bert.embedding_length": WIDTH,
        "bert.feed_forward_length": FEED_FORWARD,
        "bert.block_count": LAYERS,
        "bert.attention.head_count": HEADS,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": pooling,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3 if token in _SPECIAL else 1 for token in TOKENS],
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.bos_token_id": CLS,
        "tokenizer.ggml.seperator_token_id": SEP,
        "tokenizer.ggml.eos_token_id": SEP,
        "tokenizer.ggml.mask_token_id": 4,
    }
