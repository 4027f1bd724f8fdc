"""msgpack in and out, by the types of messages.py."""

from __future__ import annotations

from functools import cache
from typing import Final, TypeVar

import msgspec

from p2p.errors import FRAME_INVALID, TetherError

_ENCODER: Final = msgspec.msgpack.Encoder()
_Message = TypeVar("_Message", bound=msgspec.Struct)


def encode(message: msgspec.Struct) -> bytes:
    """msgpack, the same bytes for the same message: fields go out in the order of their definition."""
    return _ENCODER.encode(message)


def decode(data: bytes, kind: type[_Message]) -> _Message:
    """Read exactly one message of that kind. Raises TetherError(FRAME_INVALID) for anything else."""
    try:
        message: _Message = _decoder(kind).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TetherError(FRAME_INVALID, f"These bytes are not a {kind.__name__}: {error}.") from error
    return message


@cache
def _decoder(kind: type[_Message]) -> msgspec.msgpack.Decoder[_Message]:
    return msgspec.msgpack.Decoder(kind)
