"""Positions of an answer whose tokens nobody here knows: pieces of text as numbers, and back. Pure.

A server that others wrote tells text, not token ids. So that an answer has positions all the same, and can go on at
each of them elsewhere, its text is cut into pieces of whole characters, at most PIECE_BYTES of UTF-8 each, and a
piece's id is its bytes read as a number, behind a 1 that keeps leading zeros. EMPTY stands for a token without text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from p2p.errors import FIELD_INVALID, TetherError

PIECE_BYTES: Final = 7
"""With the 1 before them they fit into a signed integer of 64 bits, which is what the wire takes."""
EMPTY: Final = 1


def pieces_of(text: str) -> tuple[int, ...]:
    """The ids of a text, as few as whole characters allow."""
    ids: list[int] = []
    piece = b""
    for character in text:
        raw = character.encode(errors="replace")
        if len(piece) + len(raw) > PIECE_BYTES:
            ids.append(_id(piece))
            piece = b""
        piece += raw
    return (*ids, _id(piece)) if piece else tuple(ids)


def text_of(ids: Sequence[int]) -> str:
    """Raises TetherError(FIELD_INVALID, field resume) for ids that are no pieces: they come from a stranger."""
    try:
        return b"".join(_raw(one) for one in ids).decode()
    except ValueError as error:
        detail = "The ids to resume after are not those of a text."
        raise TetherError(FIELD_INVALID, detail, field="resume") from error


def _id(piece: bytes) -> int:
    return int.from_bytes(b"\x01" + piece)


def _raw(number: int) -> bytes:
    """Raises ValueError."""
    if not 0 < number < 2 << 8 * PIECE_BYTES:
        raise ValueError("out of range")
    raw = number.to_bytes((number.bit_length() + 7) // 8)
    if raw[0] != 1:
        raise ValueError("no piece")
    return raw[1:]
