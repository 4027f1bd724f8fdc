"""The few kinds of field that protocols without generated code need: varints, eight bytes, and bytes.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from p2p.errors import FRAME_INVALID, TetherError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES: Final = 10
MAX_FIELDS: Final = 64
"""Of one message: more than any of ours has."""

Value = int | bytes


def varint(number: int, value: int) -> bytes:
    return _varint(number << 3 | VARINT) + _varint(value)


def fixed64(number: int, value: int) -> bytes:
    return _varint(number << 3 | FIXED64) + value.to_bytes(8, "little")


def lengthy(number: int, value: bytes) -> bytes:
    """Bytes, or a message within a message."""
    return _varint(number << 3 | BYTES) + _varint(len(value)) + value


def fields(data: bytes) -> dict[int, list[Value]]:
    """What a message holds, by field number, each in its order. Raises TetherError(FRAME_INVALID)."""
    found: dict[int, list[Value]] = {}
    for count, (number, value) in enumerate(_fields(data)):
        if count == MAX_FIELDS:
            raise _bad("too many fields")
        found.setdefault(number, []).append(value)
    return found


def number_in(found: dict[int, list[Value]], number: int) -> int:
    """The last value of a numeric field, 0 where there is none. Raises TetherError(FRAME_INVALID)."""
    value = found.get(number, [0])[-1]
    if not isinstance(value, int):
        raise _bad("bytes in place of a number")
    return value


def bytes_in(found: dict[int, list[Value]], number: int) -> list[bytes]:
    """All values of a field that is bytes. Raises TetherError(FRAME_INVALID)."""
    values = [value for value in found.get(number, []) if isinstance(value, bytes)]
    if len(values) != len(found.get(number, [])):
        raise _bad("a number in place of bytes")
    return values


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        match key & 7:
            case kind if kind == VARINT:
                value, at = _read_varint(data, at)
                yield key >> 3, value
            case kind if kind in (FIXED64, FIXED32):
                size = 8 if kind == FIXED64 else 4
                yield key >> 3, int.from_bytes(_slice(data, at, size), "little")
                at += size
            case kind if kind == BYTES:
                size, at = _read_varint(data, at)
                yield key >> 3, _slice(data, at, size)
                at += size
            case _:
                raise _bad("a kind of field that there is not")


def _slice(data: bytes, at: int, size: int) -> bytes:
    if len(data) - at < size:
        raise _bad("its end is missing")
    return data[at : at + size]


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise _bad("a number does not end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bad(why: str) -> TetherError:
    return TetherError(FRAME_INVALID, f"These bytes are no protobuf: {why}.")
