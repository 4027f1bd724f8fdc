"""Our own reader of GGUF headers, which every model file passes before llama.cpp may touch it.

It reads versions 2 and 3, keeps the few values that Tether needs, and skips the rest without storing it, so that a
hostile file costs bounded memory whatever lengths it claims. Format: ggml's docs/gguf.md.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Final

from p2p.errors import MODEL_INVALID, TetherError

MAX_ENTRIES: Final = 65_536
"""Metadata keys, and tensors: the largest models have a few thousand of either."""
MAX_KEY_BYTES: Final = 65_535
MAX_STRING_BYTES: Final = 1 << 20
"""Of a single value; chat templates reach tens of kilobytes."""
MAX_ARRAY_ITEMS: Final = 1 << 24
BLOCK_BYTES: Final = 1 << 16
_LENGTH: Final = struct.Struct("<Q")
MAX_TENSOR_NAME_BYTES: Final = 63
"""GGML_MAX_NAME without its terminator."""
MAX_DIMENSIONS: Final = 4
DEFAULT_ALIGNMENT: Final = 32
MAX_ALIGNMENT: Final = 1 << 20

_SCALARS: Final = dict(enumerate("BbHhIif?", start=0)) | {10: "Q", 11: "q", 12: "d"}
"""Value types of the format with their struct codes; 8 is a string, 9 an array."""
_STRING: Final = 8
_ARRAY: Final = 9

_BLOCK_BYTES: Final[dict[int, dict[int, int]]] = {
    1: {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2},
    32: {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 9: 40, 20: 18, 39: 17},
    64: {40: 36},
    128: {41: 18},
    256: {10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 15: 292, 16: 66, 17: 74, 18: 98}
    | {19: 50, 21: 110, 22: 82, 23: 136, 29: 56, 34: 54, 35: 66},
}
_BLOCKS: Final = {kind: (block, size) for block, row in _BLOCK_BYTES.items() for kind, size in row.items()}
"""Tensor types of the pinned llama.cpp (ggml.h): weights to a block, bytes to a block."""

_NOT_GGUF: Final = (
    (b"\x80", "a pickle, which can run code when it is opened: Tether never does"),
    (
        b"PK\x03\x04",
        "a zip archive, probably a PyTorch checkpoint, which can run code: Tether never opens one",
    ),
    (b"{", "JSON"),
    (b"<", "a web page, perhaps an error page saved under this name"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
)


Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a model file says of itself. size_bytes: of the whole file; parameters: weights in all tensors.

    kv_bytes_per_token: what one token of context costs in memory with an f16 cache; 0 if it cannot be told. types:
    ggml's numbers, of the tensors with more than one dimension.
    """

    architecture: str
    context_length: int
    vocabulary: int
    parameters: int
    size_bytes: int
    tensors: int
    version: int
    name: str = ""
    chat_template: str = ""
    kv_bytes_per_token: int = 0
    types: frozenset[int] = frozenset()
    layers: int = 0
    pooling: int = 0
    width: int = 0

    @property
    def embeds(self) -> int:
        """The dimensions of its vectors, if it was made for them: pooled by mean, by the first or by the last."""
        return max(0, self.width) if self.pooling in (1, 2, 3) else 0


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """kind: ggml's number; shape: as ggml counts, the fastest side first; start: byte in the file."""

    kind: int
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True)
class GgufContents:
    """What an engine of ours needs besides. values: metadata that are numbers, and the few texts that are kept."""

    header: GgufHeader
    values: dict[str, Scalar]
    tensors: dict[str, GgufTensor]


def read_header(path: Path) -> GgufHeader:
    """Read and check a model file's header. Raises TetherError(MODEL_INVALID), naming the file and what is wrong."""
    return read_contents(path).header


def read_contents(path: Path) -> GgufContents:
    """As read_header, with the places of the tensors."""
    try:
        with path.open("rb") as file:
            reader = _Reader(file, os.fstat(file.fileno()).st_size)
            return GgufContents(reader.header(), reader.values, reader.tensors)
    except _Bad as bad:
        raise TetherError(MODEL_INVALID, f"{path} cannot be used: {bad}.", field="model") from bad
    except OSError as error:
        raise TetherError(
            MODEL_INVALID, f"{path} cannot be read: {error.strerror}.", field="model"
        ) from error


class _Bad(Exception):
    """What is wrong with the file, as the end of a sentence."""


@dataclass(slots=True)
class _Reader:
    file: BinaryIO
    size: int
    values: dict[str, Scalar] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    types: set[int] = field(default_factory=set)
    tensors: dict[str, GgufTensor] = field(default_factory=dict)

    def header(self) -> GgufHeader:
        version = self._magic()
        tensors, entries = self._unpack("<QQ")
        if tensors > MAX_ENTRIES or entries > MAX_ENTRIES:
            raise _Bad(f"it claims {tensors} tensors and {entries} metadata keys")
        for _ in range(entries):
            self._entry()
        parameters = self._tensors(tensors)
        if self._number("split.count", 0) > 1:
            raise _Bad("it is one part of a split model: join the parts with llama-gguf-split --merge")
        architecture = self._text("general.architecture")
        if not architecture:
            raise _Bad("it names no architecture")
        vocabulary = self.lengths.get("tokenizer.ggml.tokens", 0)
        context_length = self._number(f"{architecture}.context_length", 0)
        if not vocabulary or context_length < 1:
            raise _Bad(
                f"it is no language model: architecture {architecture!r} without vocabulary or context length"
            )
        return GgufHeader(
            architecture=architecture,
            context_length=context_length,
            vocabulary=vocabulary,
            parameters=parameters,
            size_bytes=self.size,
            tensors=tensors,
            version=version,
            name=self._text("general.name"),
            chat_template=self._text("tokenizer.chat_template"),
            kv_bytes_per_token=self._kv_bytes_per_token(architecture),
            types=frozenset(self.types),
            layers=max(0, self._number(f"{architecture}.block_count", 0)),
            pooling=self._number(f"{architecture}.pooling_type", 0),
            width=self._number(f"{architecture}.embedding_length", 0),
        )

    def _magic(self) -> int:
        start = self.file.read(24)
        self.file.seek(0)
        if not start:
            raise _Bad("it is empty")
        if not start.startswith(b"GGUF"):
            if start[8:9] == b"{":
                raise _Bad("it is not a GGUF file but looks like safetensors")
            looks = [what for prefix, what in _NOT_GGUF if start.startswith(prefix)]
            raise _Bad("it is not a GGUF file" + (f" but looks like {looks[0]}" if looks else ""))
        _, version = self._unpack("<4sI")
        if version not in (2, 3):
            big_endian = version.bit_count() and version & 0xFFFF == 0
            raise _Bad("it is a big-endian GGUF" if big_endian else f"GGUF version {version} is not 2 or 3")
        return int(version)

    def _entry(self) -> None:
        key = self._string(MAX_KEY_BYTES)
        (kind,) = self._unpack("<I")
        if kind == _ARRAY:
            item, count = self._unpack("<IQ")
            if count > MAX_ARRAY_ITEMS:
                raise _Bad(f"the list {key[:64]!r} claims {count} items")
            self.lengths[key] = count
            self._skip_items(key, item, count)
        elif kind == _STRING:
            # Of a value that is not kept, only the length matters.
            if _kept(key):
                self.values[key] = self._string(MAX_STRING_BYTES)
            else:
                self._skip_string()
        elif kind in _SCALARS:
            self.values[key] = self._unpack("<" + _SCALARS[kind])[0]
        else:
            raise _Bad(f"the value of {key[:64]!r} has the unknown type {kind}")

    def _skip_items(self, key: str, kind: int, count: int) -> None:
        if kind == _STRING:
            self._skip_strings(count)
        elif kind in _SCALARS:
            self._skip(count * struct.calcsize("<" + _SCALARS[kind]))
        else:
            raise _Bad(f"the list {key[:64]!r} has items of the unknown type {kind}")

    def _tensors(self, count: int) -> int:
        """Check every tensor against the file's end. Returns how many weights there are."""
        alignment = self._number("general.alignment", DEFAULT_ALIGNMENT)
        if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise _Bad(f"its alignment is {alignment}")
        parameters = furthest = 0
        for _ in range(count):
            name = self._string(MAX_TENSOR_NAME_BYTES)
            (dimensions,) = self._unpack("<I")
            if not 0 < dimensions <= MAX_DIMENSIONS:
                raise _Bad(f"the tensor {name!r} has {dimensions} dimensions")
            shape = self._unpack(f"<{dimensions}Q")
            kind, offset = self._unpack("<IQ")
            if kind not in _BLOCKS:
                raise _Bad(f"the tensor {name!r} has the unknown type {kind}")
            weights, (block, block_bytes) = math.prod(shape), _BLOCKS[kind]
            if weights < 1 or shape[0] % block or offset % alignment:
                raise _Bad(f"the tensor {name!r} has an impossible shape or place")
            furthest = max(furthest, offset + weights // block * block_bytes)
            parameters += weights
            self.tensors[name] = GgufTensor(kind, shape, offset)
            if dimensions > 1:
                self.types.add(kind)
        data = (self.file.tell() + alignment - 1) // alignment * alignment
        self.tensors = {name: replace(one, start=data + one.start) for name, one in self.tensors.items()}
        if data + furthest > self.size:
            raise _Bad(f"it is cut short: its tensors end at byte {data + furthest}, the file at {self.size}")
        return parameters

    def _kv_bytes_per_token(self, architecture: str) -> int:
        heads = self._number(f"{architecture}.attention.head_count", 0)
        kv_heads = self._number(f"{architecture}.attention.head_count_kv", heads)
        width = self._number(f"{architecture}.embedding_length", 0) // heads if heads > 0 else 0
        key = self._number(f"{architecture}.attention.key_length", width)
        value = self._number(f"{architecture}.attention.value_length", width)
        return max(0, self._number(f"{architecture}.block_count", 0) * kv_heads * (key + value) * 2)

    def _number(self, key: str, default: int) -> int:
        value = self.values.get(key, default)
        return value if isinstance(value, int) else default

    def _text(self, key: str) -> str:
        value = self.values.get(key, "")
        return value if isinstance(value, str) else ""

    def _string(self, limit: int) -> str:
        (length,) = self._unpack("<Q")
        if length > limit:
            raise _Bad(f"it holds a text of {length} bytes where {limit} are allowed")
        try:
            return self._read(length).decode()
        except UnicodeDecodeError as error:
            raise _Bad("it holds a text that is not UTF-8") from error

    def _skip_string(self) -> None:
        (length,) = self._unpack("<Q")
        self._skip(length)

    def _skip_strings(self, count: int) -> None:
        """By blocks: a vocabulary of 128,000 tokens and its merges are 400,000 texts."""
        while count:
            start = self.file.tell()
            block = self.file.read(BLOCK_BYTES)
            at, last = 0, len(block) - _LENGTH.size
            while count and at <= last:
                at += _LENGTH.size + _LENGTH.unpack_from(block, at)[0]
                count -= 1
            if not at or start + at > self.size:
                raise _Bad("it is cut short in its header")
            self.file.seek(start + at)

    def _skip(self, length: int) -> None:
        if length > self.size - self.file.tell():
            raise _Bad("it is cut short in its header")
        self.file.seek(length, os.SEEK_CUR)

    def _unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self._read(struct.calcsize(form)))

    def _read(self, length: int) -> bytes:
        data = self.file.read(length)
        if len(data) < length:
            raise _Bad("it is cut short in its header")
        return data


def _kept(key: str) -> bool:
    return key in (
        "general.architecture",
        "general.name",
        "tokenizer.chat_template",
    ) or key.endswith(".rope.scaling.type")
