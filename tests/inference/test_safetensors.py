"""The bounded reader of safetensors headers, beside the format's own package where that is installed."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.safetensors import MAX_COLONS, MAX_HEADER_BYTES, read_safetensors
from p2p.errors import MODEL_INVALID, TetherError

FINE: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "none": {"dtype": "U8", "shape": [0, 7], "data_offsets": [32, 32]},
}


def packed(header: Any, data: bytes = bytes(32)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def changed(name: str, **fields: Any) -> bytes:
    return packed(FINE | {name: FINE[name] | fields})


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(TetherError) as refused:
        read_safetensors(path)
    assert refused.value.code is MODEL_INVALID
    return refused.value.detail


def test_a_header_tells_names_types_shapes_and_places(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(FINE))
    header = read_safetensors(path)
    assert set(header.tensors) == {"a", "b", "none"} and header.metadata == {"format": "pt"}
    assert header.parameters == 10
    a, b = header.tensors["a"], header.tensors["b"]
    assert (a.dtype, a.shape, a.end - a.start) == ("F32", (2, 3), 24)
    assert b.start == a.end and b.end == header.size_bytes


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "too short"),
        (b"\x80\x04pickle pickle", "no safetensors"),
        (b"GGUF\x03\0\0\0" + bytes(40), "no safetensors"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1), "claims"),
        (struct.pack("<Q", 100) + b"{", "cut short in its header"),
        (packed(b"[1, 2]"), "not JSON"),
        (packed(b'{"a": {"dtype": '), "what the format asks"),
        (packed(b'{"a":' + b"[" * 100_000), "what the format asks"),
        (packed(b'{"\xff": 1}'), "what the format asks"),
        (packed(b'{"a' + b":" * (MAX_COLONS + 1)), "too many"),
        (packed(FINE | {"": FINE["none"]}), "characters"),
        (packed(FINE | {"__metadata__": {"a": 1}}), "what the format asks"),
        (packed(FINE, bytes(31)), "ends? at byte"),
        (packed(FINE, bytes(33)), "ends? at byte"),
        (changed("a", dtype="F31"), "unknown type"),
        (changed("a", dtype="F64"), "another size"),
        (changed("a", shape=[2, -3]), "impossible shape"),
        (changed("a", shape=[1 << 62, 1 << 62]), "another size"),
        (changed("a", shape=[1] * 9), "impossible shape"),
        (changed("a", shape=[2.5]), "what the format asks"),
        (changed("a", data_offsets=[24, 0]), "another size"),
        (changed("a", data_offsets=[8, 32]), "overlaps"),
        (changed("b", data_offsets=[20, 28]), "overlaps"),
        (changed("b", extra=1), "what the format asks"),
    ],
)
def test_a_file_that_lies_is_refused_with_what_is_wrong(tmp_path: Path, content: bytes, says: str) -> None:
    assert re.search(says, refusal(tmp_path / "model.safetensors", content))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="missing"):
        read_safetensors(tmp_path / "missing.safetensors")


@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=100).map(packed),
        st.tuples(st.integers(0, len(packed(FINE)) - 1), st.integers(0, 255)).map(
            lambda change: bytes(
                change[1] if at == change[0] else value for at, value in enumerate(packed(FINE))
            )
        ),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
        ).map(packed),
    )
)
def test_whatever_the_bytes_they_are_a_header_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(content)
    try:
        header = read_safetensors(path)
    except TetherError as refused:
        assert refused.code is MODEL_INVALID
    else:
        assert all(0 < one.start <= one.end <= len(content) for one in header.tensors.values())


TYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "U8": np.uint8, "BOOL": np.bool_}


@given(
    arrays=st.dictionaries(
        st.text("abc.0", min_size=1, max_size=12),
        st.tuples(st.sampled_from(sorted(TYPES)), st.lists(st.integers(0, 4), max_size=4)),
        max_size=8,
    )
)
def test_what_the_package_of_the_format_writes_is_read_as_it_was_meant(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, tuple[str, list[int]]]
) -> None:
    theirs = pytest.importorskip("safetensors.numpy", reason="the safetensors package is not installed")
    path = tmp_path_factory.getbasetemp() / "theirs.safetensors"
    theirs.save_file({name: np.zeros(shape, TYPES[kind]) for name, (kind, shape) in arrays.items()}, path)
    told = {name: (one.dtype, list(one.shape)) for name, one in read_safetensors(path).tensors.items()}
    assert told == arrays
