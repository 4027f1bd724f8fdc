"""Vectors from the openai client through real daemons."""

from __future__ import annotations

import math
from pathlib import Path

import openai
import pytest

from cli.local_swarm import LocalSwarm, until
from tests.e2e.asking import MODEL, client_of
from tests.servers.embedding_model import DIMENSIONS, embedding_model


def test_a_client_gets_vectors_and_is_told_what_cannot_be(swarm: LocalSwarm, tmp_path: Path) -> None:
    model = str(embedding_model(tmp_path / "embedder.gguf"))
    node = swarm.start("founder", models=[MODEL, model]).wait_ready()
    client = client_of(node)
    listed = until(lambda: {one.id: one for one in client.models.list()}, "the models")
    assert listed["embedder"].model_dump()["embedding_dimensions"] == DIMENSIONS
    assert "embedding_dimensions" not in listed[MODEL].model_dump()

    texts = [f"the word {number}" for number in range(40)]
    plain = client.embeddings.create(model="embedder", input=texts, encoding_format="float")
    packed = client.embeddings.create(model="embedder", input=texts, encoding_format="base64")
    packed_by_default = client.embeddings.create(model="embedder", input=texts)
    floats = [one.embedding for one in plain.data]
    assert [one.index for one in plain.data] == list(range(40))
    for one, other in zip(packed_by_default.data, floats, strict=True):
        assert one.embedding == pytest.approx(other, abs=1e-6)
    assert isinstance(packed.data[0].embedding, str)
    assert all(math.isclose(math.fsum(x * x for x in one), 1.0, rel_tol=1e-4) for one in floats)
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 40
    ids = client.embeddings.create(model="embedder", input=[[1, 2, 3], [4]])
    assert (len(ids.data), ids.usage.prompt_tokens) == (2, 4)

    key = {"Idempotency-Key": "vectors-1"}
    answers = [
        client.embeddings.with_raw_response.create(
            model="embedder", input="once", encoding_format="float", extra_headers=key
        )
        for _ in range(2)
    ]
    assert answers[0].content == answers[1].content
    assert answers[0].headers["x-tether-job"] == answers[1].headers["x-tether-job"]

    for wrong in ({"model": MODEL}, {"dimensions": 7}, {"input": ""}, {"input": "far too long " * 4_000}):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(**{"model": "embedder", "input": "x", **wrong})
    with pytest.raises(openai.BadRequestError, match="vectors"):
        client.chat.completions.create(model="embedder", messages=[{"role": "user", "content": "Hi"}])
    again = client.embeddings.create(model="embedder", input=texts[0], dimensions=DIMENSIONS)
    assert len(again.data[0].embedding) == DIMENSIONS
