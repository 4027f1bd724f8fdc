"""Writes tether-demo as a GGUF: Q8_0 matrices, the vocabulary, and the chat template."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from inference.demo import MODEL_NAME, MODEL_VERSION
from inference.demo.chat_format import END, MARKERS, TEMPLATE
from inference.demo.model import EPSILON, ROPE_BASE, Shape
from inference.demo.vocabulary import BOS, EOS, UNK, Vocabulary


def write(
    path: Path,
    shape: Shape,
    vocabulary: Vocabulary,
    arrays: dict[str, NDArray[np.float32]],
    context_tokens: int,
) -> None:
    """arrays: by GGUF name; the output layer is the embedding, as llama.cpp takes it when there is no other."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(MODEL_NAME)
    writer.add_version(MODEL_VERSION)
    writer.add_description("Tether's built-in model, trained from nothing on a synthetic corpus")
    writer.add_license("Apache-2.0")
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    _add_vocabulary(writer, vocabulary)
    for name, array in arrays.items():
        if array.ndim == 1:
            writer.add_tensor(name, array)
        else:
            packed = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    pieces = vocabulary.pieces
    ids = range(pieces.get_piece_size())
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.id_to_piece(token).encode() for token in ids])
    writer.add_token_scores([pieces.get_score(token) for token in ids])
    writer.add_token_types([int(_type(vocabulary, token)) for token in ids])
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_eot_token_id(vocabulary.id_of(END))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)


def _type(vocabulary: Vocabulary, token: int) -> gguf.TokenType:
    pieces = vocabulary.pieces
    if token == UNK:
        return gguf.TokenType.UNKNOWN
    if pieces.is_control(token) or pieces.id_to_piece(token) in MARKERS:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.BYTE if pieces.is_byte(token) else gguf.TokenType.NORMAL
