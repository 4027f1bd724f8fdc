"""Vectors: in batches, in parcels, and the same as llama-cpp-python's own of the same file."""

from __future__ import annotations

import math
from collections.abc import Callable
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
from p2p.errors import ENGINE_FAILED, FIELD_INVALID, TetherError
from tests.servers import bert_model as bert
from tests.servers.bert_model import bert_model
from tests.servers.embedding_model import DIMENSIONS, FIRST, LAST, MEAN, embedding_model

TEXTS = ("Once upon a time", "What is Tether?", "a", "The capital of France is Paris. " * 3)


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


@pytest.mark.parametrize(
    ("make", "pooling", "dimensions", "context"),
    [
        (embedding_model, MEAN, DIMENSIONS, 512),
        (embedding_model, LAST, DIMENSIONS, 512),
        (bert_model, MEAN, bert.WIDTH, bert.CONTEXT),
        (bert_model, FIRST, bert.WIDTH, bert.CONTEXT),
    ],
)
async def test_vectors_are_those_of_llama_cpp_itself(
    tmp_path: Path, make: Callable[[Path, int], Path], pooling: int, dimensions: int, context: int
) -> None:
    model = make(tmp_path / "embedder.gguf", pooling)
    assert read_header(model).embeds == dimensions
    peer = llama_cpp.Llama(
        str(model), embedding=True, n_ctx=context, n_threads=1, pooling_type=pooling, verbose=False
    )
    expected = [one["embedding"] for one in peer.create_embedding(list(TEXTS))["data"]]
    peer.close()
    async with open_llama(model, LlamaSettings(slots=4, threads=1, context_tokens=context)) as engine:
        assert engine.info.embeds == dimensions and not engine.info.exact
        inputs = tuple(map(Input, TEXTS, await engine.count_inputs(TEXTS)))
        alone = [(await engine.embed((one,)))[0] for one in inputs]
        together = [vector for batch in batches(inputs, 4, context) for vector in await engine.embed(batch)]
        for theirs, one, other in zip(expected, alone, together, strict=True):
            direction = np.array(theirs) / np.linalg.norm(theirs)
            for vector in (np.frombuffer(one, "<f4"), np.frombuffer(other, "<f4")):
                assert math.isclose(float(np.linalg.norm(vector)), 1.0, rel_tol=1e-5)
                assert float(vector @ direction) > 0.999
        with pytest.raises(TetherError) as caught:
            await engine.count_inputs(((10**9,),))
        assert caught.value.code is FIELD_INVALID
        with pytest.raises(TetherError) as caught:
            await engine.embed((Input("", (1,) * (context + 1)),))
        assert caught.value.code is ENGINE_FAILED and "one step" in caught.value.detail
        assert await engine.embed(inputs[:1]) == (alone[0],)
