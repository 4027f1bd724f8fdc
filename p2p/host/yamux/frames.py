"""yamux's header, to the letter: https://github.com/hashicorp/yamux/blob/master/spec.md

version (8 bits, 0) | type (8) | flags (16) | stream (32) | length (32)       big endian; DATA's payload follows
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

HEADER: Final = struct.Struct("!BBHII")
HEADER_BYTES: Final = HEADER.size
VERSION: Final = 0

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
SESSION: Final = 0
"""The stream id of frames that concern the whole connection."""

INITIAL_WINDOW: Final = 256 * 1024
"""What either side may send on a new stream before it hears of more."""
MAX_LENGTH: Final = (1 << 32) - 1


class Goodbye(IntEnum):
    """GO_AWAY's codes."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


def header(kind: int, flags: int, stream: int, length: int) -> bytes:
    return HEADER.pack(VERSION, kind, flags, stream, length)
