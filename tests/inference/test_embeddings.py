"""Vectors: in batches, in parcels, and the same as llama-cpp-python's own of the same file."""

from __future__ import annotations

import math
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.embeddings import CHUNK_BYTES, batches, parcels
from inference.engine import Input
from inference.gguf import read_header
from inference.llama import LlamaSettings, open_llama
from p2p.errors import FIELD_INVALID, TetherError
from tests.servers.embedding_model import DIMENSIONS, MEAN, embedding_model

TEXTS = ("Once upon a time", "What is Tether?", "a", "The capital of France is Paris. " * 5)


@given(st.lists(st.integers(1, 50)), st.integers(1, 8), st.integers(50, 120))
def test_batches_hold_every_input_in_order_within_slots_and_tokens(
    lengths: list[int], slots: int, tokens: int
) -> None:
    inputs = [Input("", (index,) * length) for index, length in enumerate(lengths)]
    made = list(batches(inputs, slots, tokens))
    assert [one for batch in made for one in batch] == inputs
    assert all(len(batch) <= slots and sum(len(one.ids) for one in batch) <= tokens for batch in made)


@given(st.lists(st.just(b"x" * 30_000)))
def test_parcels_hold_every_vector_in_order_within_a_chunk(vectors: list[bytes]) -> None:
    made = list(parcels(vectors))
    assert [one for parcel in made for one in parcel] == vectors
    assert all(sum(map(len, parcel)) <= CHUNK_BYTES for parcel in made)


@pytest.mark.parametrize("pooling", [MEAN, 3])
async def test_vectors_are_those_of_llama_cpp_itself(tmp_path: Path, pooling: int) -> None:
    model = embedding_model(tmp_path / "embedder.gguf", pooling)
    assert read_header(model).embeds == DIMENSIONS
    peer = llama_cpp.Llama(
        str(model), embedding=True, n_ctx=512, n_threads=1, pooling_type=pooling, verbose=False
    )
    expected = [one["embedding"] for one in peer.create_embedding(list(TEXTS))["data"]]
    peer.close()
    async with open_llama(model, LlamaSettings(slots=4, threads=1, context_tokens=512)) as engine:
        assert engine.info.embeds == DIMENSIONS and not engine.info.exact
        inputs = tuple(map(Input, TEXTS, await engine.count_inputs(TEXTS)))
        alone = [(await engine.embed((one,)))[0] for one in inputs]
        together = await engine.embed(inputs)
        for theirs, one, other in zip(expected, alone, together, strict=True):
            direction = np.array(theirs) / np.linalg.norm(theirs)
            for vector in (np.frombuffer(one, "<f4"), np.frombuffer(other, "<f4")):
                assert math.isclose(float(np.linalg.norm(vector)), 1.0, rel_tol=1e-5)
                assert float(vector @ direction) > 0.999
        with pytest.raises(TetherError) as caught:
            await engine.count_inputs(((10**9,),))
        assert caught.value.code is FIELD_INVALID
