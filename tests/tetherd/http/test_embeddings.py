"""What /v1/embeddings takes, and which vectors a gateway believes."""

from __future__ import annotations

import json

import pytest

from p2p.content import ChunkBody
from p2p.errors import TetherError
from tetherd.gateway.vectors import Vectors
from tetherd.http.embeddings import parse_embedding


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("one", ("one",)),
        (["one", "two"], ("one", "two")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
    ],
)
def test_each_form_of_input_is_taken(given: object, taken: object) -> None:
    asked = parse_embedding(json.dumps({"model": "m", "input": given}).encode(), {})
    assert asked.submission.embed == taken and not asked.as_base64


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"input": None},
        {"input": ""},
        {"input": []},
        {"input": [[]]},
        {"input": [""]},
        {"input": ["x"] * 2_049},
        {"input": [1.5]},
        {"input": [True]},
        {"input": [-1]},
        {"input": [2**31]},
        {"input": ["x", 1]},
        {"input": {"x": 1}},
        {"input": "x", "encoding_format": "hex"},
        {"input": "x", "encoding_format": ["float"]},
        {"input": "x", "dimensions": 0},
        {"input": "x", "dimensions": "8"},
        {"input": "x", "n": 2},
        {"input": "\ud800"},
        {"input": "x", "dimensions": float("nan")},
    ],
)
def test_bad_input_is_refused_by_name(fields: dict[str, object]) -> None:
    with pytest.raises(TetherError) as caught:
        parse_embedding(json.dumps({"model": "m", **fields}).encode(), {})
    assert caught.value.code.status == 400


def test_vectors_are_taken_once_whichever_attempt_brings_them() -> None:
    vectors, one, two = Vectors(3, 2), b"12345678", b"abcdefgh"
    assert vectors.take(ChunkBody(vectors=(one,), position=0)) == (one,)
    assert vectors.take(ChunkBody(vectors=(two, two), position=0)) == (two,)
    assert vectors.take(ChunkBody(vectors=(one,), position=0)) == ()
    assert vectors.take(ChunkBody(vectors=(one,), position=2)) == (one,)
    for body in (
        ChunkBody(vectors=(one,), position=3),
        ChunkBody(vectors=(b"short",), position=0),
        ChunkBody(vectors=(one,), position=-1),
    ):
        with pytest.raises(TetherError):
            vectors.take(body)
