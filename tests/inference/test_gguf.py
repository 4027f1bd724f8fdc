"""The header reader on good files, on bad ones, and on noise."""

from __future__ import annotations

import struct
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.demo import MODEL_PATH
from inference.gguf import GgufHeader, read_header
from p2p.errors import MODEL_INVALID, TetherError

U32, STRING, ARRAY = 4, 8, 9


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def number(key: str, value: int) -> bytes:
    return entry(key, U32, struct.pack("<I", value))


def strings(key: str, *values: str) -> bytes:
    return entry(key, ARRAY, struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values)))


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


MODEL_ENTRIES = (
    entry("general.architecture", STRING, text("llama")),
    entry("general.name", STRING, text("tiny")),
    number("llama.context_length", 64),
    number("llama.block_count", 2),
    number("llama.embedding_length", 32),
    number("llama.attention.head_count", 4),
    number("llama.attention.head_count_kv", 2),
    strings("tokenizer.ggml.tokens", "a", "b", "c"),
    entry("tokenizer.chat_template", STRING, text("{{ messages }}")),
)


def gguf(
    *entries: bytes,
    tensors: tuple[bytes, ...] = (tensor("w", (32, 2)),),
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 256,
) -> bytes:
    tensor_count, entry_count = counts or (len(tensors), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, entry_count) + b"".join(entries + tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


GOOD = gguf(*MODEL_ENTRIES)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def reason(file: Path, data: bytes) -> str:
    """Why the reader refuses these bytes."""
    file.write_bytes(data)
    with pytest.raises(TetherError) as refused:
        read_header(file)
    assert refused.value.code is MODEL_INVALID
    assert str(file) in refused.value.detail
    return refused.value.detail


def test_a_header_says_what_the_model_is(file: Path) -> None:
    file.write_bytes(GOOD)
    assert read_header(file) == GgufHeader(
        architecture="llama",
        context_length=64,
        vocabulary=3,
        parameters=64,
        size_bytes=len(GOOD),
        types=frozenset({0}),
        tensors=1,
        version=3,
        name="tiny",
        chat_template="{{ messages }}",
        kv_bytes_per_token=2 * 2 * (8 + 8) * 2,
        layers=2,
        width=32,
    )


@given(lengths=st.lists(st.sampled_from([0, 1, 7, 65_520, 65_536, 200_000]), max_size=6))
def test_a_long_list_of_texts_is_skipped_to_its_end(lengths: list[int]) -> None:
    listed = b"".join(text(b"x" * length) for length in lengths)
    value = entry("tokenizer.ggml.merges", ARRAY, struct.pack("<IQ", STRING, len(lengths)) + listed)
    with NamedTemporaryFile() as made:
        made.write(gguf(value, *MODEL_ENTRIES))
        made.flush()
        assert read_header(Path(made.name)).vocabulary == 3


def test_the_built_in_model_passes() -> None:
    header = read_header(MODEL_PATH)
    assert header.context_length >= 512
    assert header.chat_template
    assert header.kv_bytes_per_token > 0


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"hello, I am text", "not a GGUF file"),
        (b"\x80\x04\x95 pickled", "pickle"),
        (b"PK\x03\x04 zipped", "zip"),
        (b"<html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (struct.pack("<Q", 300) + b'{"__metadata__":{}}', "safetensors"),
        (GOOD[:20], "cut short"),
        (GOOD[:100], "cut short"),
        (GOOD[:-200], "cut short"),
        (gguf(version=1), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (gguf(counts=(1 << 40, 0)), "claims"),
        (gguf(), "no architecture"),
        (gguf(MODEL_ENTRIES[0]), "no language model"),
        (gguf(*MODEL_ENTRIES, number("split.count", 2)), "one part"),
        (gguf(*MODEL_ENTRIES, number("general.alignment", 24)), "alignment"),
        (gguf(*MODEL_ENTRIES, entry("x", 13, b"")), "unknown type 13"),
        (gguf(*MODEL_ENTRIES, entry("x", ARRAY, struct.pack("<IQ", ARRAY, 1))), "unknown type 9"),
        (gguf(*MODEL_ENTRIES, entry("x", ARRAY, struct.pack("<IQ", 0, 1 << 60))), "items"),
        (gguf(*MODEL_ENTRIES, entry("x", STRING, struct.pack("<Q", 1 << 62))), "cut short"),
        (gguf(*MODEL_ENTRIES, entry("x", ARRAY, struct.pack("<IQQ", STRING, 2, 1 << 62))), "cut short"),
        (gguf(*MODEL_ENTRIES, entry("x", ARRAY, struct.pack("<IQ", STRING, 1 << 20))), "cut short"),
        (gguf(*MODEL_ENTRIES, entry("general.name", STRING, struct.pack("<Q", 1 << 62))), "text of"),
        (gguf(*MODEL_ENTRIES, entry("general.name", STRING, text(b"\xff\xfe"))), "UTF-8"),
        (gguf(*MODEL_ENTRIES, tensors=(tensor("w", ()),)), "0 dimensions"),
        (gguf(*MODEL_ENTRIES, tensors=(tensor("w", (1,) * 5),)), "5 dimensions"),
        (gguf(*MODEL_ENTRIES, tensors=(tensor("w", (32,), kind=4),)), "unknown type 4"),
        (gguf(*MODEL_ENTRIES, tensors=(tensor("w", (33,), kind=8),)), "impossible"),
        (gguf(*MODEL_ENTRIES, tensors=(tensor("w", (32,), offset=7),)), "impossible"),
        (gguf(*MODEL_ENTRIES, tensors=(tensor("w", (32,), offset=1 << 50),)), "cut short"),
        (gguf(*MODEL_ENTRIES, tensors=(tensor("w" * 64, (32,)),)), "text of 64"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(file: Path, data: bytes, told: str) -> None:
    assert told in reason(file, data)


def test_a_file_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="No such file"):
        read_header(tmp_path / "missing.gguf")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="directory"):
        read_header(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=9)), max_size=4),
    end=st.integers(0, len(GOOD)),
)
def test_altered_headers_are_read_or_refused_and_nothing_else(
    file: Path, changes: list[tuple[int, bytes]], end: int
) -> None:
    data = bytearray(GOOD)
    for at, fresh in changes:
        data[at : at + len(fresh)] = fresh
    file.write_bytes(data[: end if end % 2 else None])
    try:
        assert isinstance(read_header(file), GgufHeader)
    except TetherError as refused:
        assert refused.code is MODEL_INVALID


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_noise_is_refused(file: Path, data: bytes) -> None:
    reason(file, b"GGUF" + data)
