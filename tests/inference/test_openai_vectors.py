"""Vectors of a server: what is asked, and what of its answers is believed."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine import Input
from inference.openai_vectors import MAX_DIMENSIONS, check_inputs, read_vectors, shares, vectors_body
from inference.openai_wire import Server
from p2p.errors import ENGINE_FAILED, FIELD_INVALID, TetherError


def said(*data: Any) -> bytes:
    return json.dumps({"object": "list", "data": list(data)}).encode()


def one(index: int | None, *values: float) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": list(values)}


def test_the_sources_are_asked_for_as_they_stand() -> None:
    body = vectors_body("m", [Input("one", (0,)), Input("two", (0, 0))])
    assert body == {"model": "m", "input": ["one", "two"], "encoding_format": "float"}


def test_vectors_come_back_in_the_order_of_the_inputs_with_length_one() -> None:
    first, second = read_vectors(said(one(1, 0, 2), one(0, 3, 4)), 2)
    assert struct.unpack("<2f", first) == pytest.approx((0.6, 0.8))
    assert struct.unpack("<2f", second) == (0.0, 1.0)
    assert len(read_vectors(said(one(None, 1, 0), one(None, 1, 0)), 2, 2)) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"data": 3}',
        b'{"data": [{"embedding": "AAAA"}]}',
        b"\xff",
        said(),
        said(one(0, 1, 2), one(1, 1, 2), one(2, 1, 2)),
        said(one(0, 1, 2), one(0, 1, 2)),
        said(one(0, 1, 2), one(7, 1, 2)),
        said(one(0, 1, 2), one(1, 1, 2, 3)),
        said(one(0, 0, 0), one(1, 1, 2)),
        said(one(0, 1.7e308, 1.7e308, 1.7e308), one(1, 1.7e308, 1.7e308, 1.7e308)),
        said(one(0), one(1)),
        said(one(0, *[1] * (MAX_DIMENSIONS + 1)), one(1, *[1] * (MAX_DIMENSIONS + 1))),
    ],
)
def test_what_is_no_answer_is_none(body: bytes) -> None:
    with pytest.raises(TetherError) as caught:
        read_vectors(body, 2)
    assert caught.value.code is ENGINE_FAILED


def test_a_model_keeps_its_dimensions() -> None:
    with pytest.raises(TetherError):
        read_vectors(said(one(0, 1, 2)), 1, 3)


@given(st.binary(max_size=200), st.integers(1, 3), st.integers(0, 3))
def test_any_answer_is_vectors_or_an_error(body: bytes, count: int, dimensions: int) -> None:
    try:
        vectors = read_vectors(body, count, dimensions)
    except TetherError as error:
        assert error.code is ENGINE_FAILED
    else:
        assert len(vectors) == count


@given(
    st.integers(0, 10_000), st.lists(st.text(max_size=50) | st.tuples(st.integers(0, 9), st.integers(0, 9)))
)
def test_each_input_has_its_share_of_the_tokens(total: int, sources: list[str | tuple[int, ...]]) -> None:
    parts = shares(total, sources)
    texts = [part for part, source in zip(parts, sources, strict=True) if isinstance(source, str)]
    assert all(part >= 1 for part in parts)
    assert all(part == 2 for part, source in zip(parts, sources, strict=True) if not isinstance(source, str))
    if any(isinstance(source, str) and source for source in sources):
        assert math.isclose(sum(texts), total, abs_tol=len(texts))


def test_ids_go_only_to_servers_that_take_them() -> None:
    check_inputs(Server("vllm", "m", 99), ((1, 2),))
    check_inputs(Server("ollama", "m", 99), ("text",))
    with pytest.raises(TetherError) as caught:
        check_inputs(Server("ollama", "m", 99), ("text", (1, 2)))
    assert (caught.value.code, caught.value.field) == (FIELD_INVALID, "input")
