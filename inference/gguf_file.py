"""Writes GGUF, version 3, whole in memory: for vocabularies that llama.cpp is to read, and small models in tests."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

Value = bool | int | float | str | Sequence[str] | Sequence[float] | Sequence[int]

_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_ALIGNMENT: Final = 32


def gguf_bytes(
    values: Mapping[str, Value], tensors: Mapping[str, np.ndarray[Any, np.dtype[np.float32]]] | None = None
) -> bytes:
    """values: metadata, whole numbers as u32 (in lists: i32); tensors: single precision, as numpy counts sides."""
    placed = tensors or {}
    head = [b"GGUF", struct.pack("<IQQ", 3, len(placed), len(values))]
    head += [_text(key) + _value(value) for key, value in values.items()]
    data = bytearray()
    for name, array in placed.items():
        sides = array.shape[::-1]
        head.append(_text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, 0, len(data)))
        data += array.astype("<f4").tobytes()
        data += bytes(-len(data) % _ALIGNMENT)
    header = b"".join(head)
    return header + bytes(-len(header) % _ALIGNMENT) + bytes(data)


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _U32, value)
        case float():
            return struct.pack("<If", _F32, value)
        case str():
            return struct.pack("<I", _STRING) + _text(value)
        case _:
            return _list(value)


def _list(items: Sequence[Any]) -> bytes:
    if items and isinstance(items[0], str):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(items)) + b"".join(map(_text, items))
    kind, code = (_F32, "f") if items and isinstance(items[0], float) else (_I32, "i")
    return struct.pack("<IIQ", _ARRAY, kind, len(items)) + struct.pack(f"<{len(items)}{code}", *items)
