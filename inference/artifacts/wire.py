"""What nodes say to each other about files: who has which chunks (a call), and the chunks (a stream of their own).

    HOLDING     call, stays open: Holding, then another whenever more chunks have come
    BLOB        stream: 32 bytes of SHA-256, then a u32 for each chunk that is wanted
                back, in that order: u32 chunk, u32 length, the bytes; a length of 0: not held any more

Chunks do not go as calls: gigabytes would be cut into frames that nobody has to acknowledge, since whoever loses a
connection asks for the chunk again. Numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from p2p.membership import SwarmId
from p2p.messages import Message, Method

BLOB_PROTOCOL: Final = "/tether/blob/1"
HEAD: Final = struct.Struct("<II")
WANT: Final = struct.Struct("<I")


class HoldingRequest(Message, frozen=True):
    """sha256: hex, of the whole file."""

    sha256: str


class Holding(Message, frozen=True):
    """whole: all of it is here. Else, since the last one of these, chunks: have come, coming: were asked for."""

    whole: bool = False
    chunks: tuple[int, ...] = ()
    coming: tuple[int, ...] = ()


HOLDING: Final = Method("holding", HoldingRequest, Holding)


def blob_key(swarm_id: SwarmId, sha256: str) -> bytes:
    """Where on the DHT those meet who have a file, or part of it. 32 bytes."""
    return hashlib.sha256(f"tether/blob/{swarm_id}/{sha256}".encode()).digest()
