"""What a config.json or a GGUF says of a model's shape, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.forward import LoadError
from inference.torch.shape import from_config, from_gguf

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
}
GGUF: dict[str, Any] = {
    "general.architecture": "qwen2",
    "qwen2.embedding_length": 64,
    "qwen2.block_count": 2,
    "qwen2.attention.head_count": 4,
    "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
    "qwen2.feed_forward_length": 96,
    "qwen2.context_length": 256,
}


def test_a_config_and_metadata_say_the_same_of_one_model() -> None:
    told, known = from_config(CONFIG), from_gguf(GGUF | {"qwen2.attention.head_count_kv": 2}, 100)
    assert told == known and (told.head, told.kv_heads, told.interleaved) == (16, 2, False)
    assert from_gguf(GGUF, 100).kv_heads == 4


def test_a_window_bounds_the_context() -> None:
    assert from_config(CONFIG | {"model_type": "mistral", "sliding_window": 128}).context == 128
    assert from_config(CONFIG | {"model_type": "qwen2", "sliding_window": 128}).context == 256


def test_rotations_slow_down_as_their_scaling_says() -> None:
    plain = from_config(CONFIG).frequencies()
    linear = from_config(CONFIG | {"rope_scaling": {"type": "linear", "factor": 4}}).frequencies()
    assert linear == [one / 4 for one in plain]
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8,
        "low_freq_factor": 1,
        "high_freq_factor": 4,
        "original_max_position_embeddings": 64,
    }
    slowed = from_config(CONFIG | {"rope_parameters": scaling}).frequencies()
    assert slowed[0] == plain[0] and slowed[-1] == plain[-1] / 8
    assert all(one / 8 <= other <= one for one, other in zip(plain, slowed, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt2"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 3},
        {"vocab_size": 1 << 40},
        {"hidden_size": True},
        {"rms_norm_eps": "small"},
        {"rope_theta": 0},
        {"rope_scaling": {"rope_type": "yarn"}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8}},
        {"rope_scaling": "llama3"},
    ],
)
def test_a_shape_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(LoadError):
        from_config(CONFIG | change)


_ANY = st.none() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.integers(), max_size=2)


@given(key=st.sampled_from(sorted(CONFIG)), value=_ANY)
def test_whatever_a_config_says_it_is_a_shape_or_refused(key: str, value: Any) -> None:
    try:
        shape = from_config(CONFIG | {key: value})
    except LoadError:
        return
    assert shape.heads % shape.kv_heads == 0


@given(key=st.sampled_from(sorted(GGUF)), value=_ANY)
def test_whatever_a_gguf_says_it_is_a_shape_or_refused(key: str, value: Any) -> None:
    try:
        from_gguf(GGUF | {key: value}, 100)
    except LoadError:
        return
