"""Our own reader of safetensors headers, which every such file passes before a byte of its weights is used.

The format is a length, a JSON object that names tensors with type, shape and place, and their bytes without a gap. It
cannot carry code; this reader sees to it that it cannot carry a lie about sizes either. Format:
github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from p2p.errors import MODEL_INVALID, TetherError

MAX_HEADER_BYTES: Final = 100_000_000
"""The format's own limit."""
MAX_TENSORS: Final = 65_536
MAX_COLONS: Final = 1 << 20
"""In a header: JSON has one for each key, so this bounds what decoding allocates before anything is decoded."""
MAX_NAME_CHARS: Final = 1_024
MAX_DIMENSIONS: Final = 8
_LENGTH: Final = struct.Struct("<Q")

BITS: Final = (
    {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64}
    | {"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64}
    | {"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
)
"""Of one element, by the format's type names."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """start, end: bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """parameters: elements of all tensors; size_bytes: of the whole file."""

    tensors: dict[str, StoredTensor]
    size_bytes: int
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())


def read_safetensors(path: Path) -> SafetensorsHeader:
    """Read and check a file's header. Raises TetherError(MODEL_INVALID), naming the file and what is wrong."""
    try:
        with path.open("rb") as file:
            return _header(file, os.fstat(file.fileno()).st_size)
    except _Bad as bad:
        raise TetherError(MODEL_INVALID, f"{path} cannot be used: {bad}.", field="model") from bad
    except OSError as error:
        detail = f"{path} cannot be read: {error.strerror}."
        raise TetherError(MODEL_INVALID, detail, field="model") from error


class _Bad(Exception):
    """What is wrong with the file, as the end of a sentence."""


def _header(file: BinaryIO, size: int) -> SafetensorsHeader:
    prefix = file.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        raise _Bad("it is too short for a safetensors file")
    (length,) = _LENGTH.unpack(prefix)
    if length > MAX_HEADER_BYTES:
        raise _Bad(f"it is no safetensors file, or its header claims {length} bytes")
    begin = _LENGTH.size + length
    if begin > size:
        raise _Bad("it is cut short in its header")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise _Bad("it is no safetensors file: its header is not JSON")
    if text.count(b":") > MAX_COLONS:
        raise _Bad("its header has too many entries")
    try:
        entries = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        metadata = _metadata(entries.pop("__metadata__", None))
        if len(entries) > MAX_TENSORS:
            raise _Bad(f"it claims {len(entries)} tensors")
        tensors = {name: _tensor(name, raw, begin) for name, raw in entries.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Bad("its header is not what the format asks for") from error
    _check_places(tensors, begin, size)
    return SafetensorsHeader(tensors, size, metadata)


def _metadata(raw: msgspec.Raw | None) -> dict[str, str]:
    return {} if raw is None else msgspec.json.decode(raw, type=dict[str, str])


def _tensor(name: str, raw: msgspec.Raw, begin: int) -> StoredTensor:
    if not 0 < len(name) <= MAX_NAME_CHARS:
        raise _Bad(f"a tensor's name has {len(name)} characters")
    entry = msgspec.json.decode(raw, type=_Entry)
    told = f"the tensor {name[:64]!r}"
    if entry.dtype not in BITS:
        raise _Bad(f"{told} has the unknown type {entry.dtype[:16]!r}")
    if len(entry.shape) > MAX_DIMENSIONS or any(not 0 <= side < 1 << 63 for side in entry.shape):
        raise _Bad(f"{told} has an impossible shape")
    start, end = entry.data_offsets
    if not 0 <= start <= end or (end - start) * 8 != math.prod(entry.shape) * BITS[entry.dtype]:
        raise _Bad(f"{told} has another size than its shape")
    return StoredTensor(entry.dtype, tuple(entry.shape), begin + start, begin + end)


def _check_places(tensors: dict[str, StoredTensor], begin: int, size: int) -> None:
    """One behind the other, from the header to the file's end: no overlap, no gap where something could hide."""
    reached = begin
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != reached:
            raise _Bad(f"the tensor {name[:64]!r} overlaps another one or leaves a gap")
        reached = tensor.end
    if reached != size:
        raise _Bad(f"its tensors end at byte {reached}, the file at {size}")
