"""The frames of a call's life: msgpack arrays, the kind first, in length-prefixed blocks (`p2p.frames`).

A session is a caller's lane to a peer; it has one stream at a time and outlives each. The caller opens the stream and
greets with HELLO; whatever follows it, and all that the callee says, are blocks. A block carries what one write had to
say: how many of the other's frames have arrived, and frames in their order.

Frames count from 0 in each direction of a session, without the number being written: streams keep order. Whatever lies
beyond `received` is kept by its sender and sent again on the session's next stream, so nothing is lost and nothing
comes twice. Calls are numbered by the caller, upwards; a number that was used is a tombstone for as long as the session
lives, and a frame for it is late, and dropped.

A session's first stream goes out in one write, HELLO and the calls behind it. On a later one the caller waits for the
callee's first block, which has no frames and says where to go on. resume says that such a block was seen before: then
a callee that does not know the session takes leave instead of beginning it anew. instance is drawn when a node starts;
a new one ends the sessions of the old.

Credit is in bytes. A message costs its length and MESSAGE_WEIGHT, however it is cut: parts cost their length, its last
piece (DATA, LAST) the rest. Nothing is sent beyond the credit. What an answer may cost is given with OPEN and CREDIT by
the caller; of a request, the first part needs none, the rest is given by the callee's CREDIT at once or not at all.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from p2p.errors import FRAME_INVALID, TetherError, WireError
from p2p.frames import frame

VERSION: Final = 1
INSTANCE_BYTES: Final = 8
MAX_FRAMES: Final = 1024
"""In a block: an empty frame takes three bytes on the wire and sixty in memory."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62) - 1)]
_Call = Annotated[int, msgspec.Meta(ge=1, le=(1 << 40) - 1)]


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What all frames share: an array on the wire, unknown fields at its end ignored."""


class Hello(Frame, frozen=True, tag=1):
    """priority: of all calls in the session; received: of the callee's frames, on all streams before."""

    version: int
    instance: Annotated[bytes, msgspec.Meta(min_length=INSTANCE_BYTES, max_length=INSTANCE_BYTES)]
    serial: Annotated[int, msgspec.Meta(ge=0, le=(1 << 24) - 1)]
    priority: Annotated[int, msgspec.Meta(ge=0, le=2)]
    resume: bool
    received: _Count


class Open(Frame, frozen=True, tag=3):
    """timeout_ms: what is left of it when the frame is made; None: no deadline. rest: of the request, in MORE."""

    call: _Call
    method: Annotated[str, msgspec.Meta(max_length=64)]
    timeout_ms: _Count | None
    credit: _Count
    rest: _Count
    request: bytes


class More(Frame, frozen=True, tag=4):
    call: _Call
    part: bytes


class Credit(Frame, frozen=True, tag=5):
    call: _Call
    amount: _Count


class Cancel(Frame, frozen=True, tag=6):
    call: _Call


class Part(Frame, frozen=True, tag=7):
    """A piece of a message that DATA or LAST completes. rest: bytes that still follow."""

    call: _Call
    rest: _Count
    part: bytes


class Data(Frame, frozen=True, tag=8):
    call: _Call
    message: bytes


class Last(Frame, frozen=True, tag=9):
    call: _Call
    message: bytes


class End(Frame, frozen=True, tag=10):
    call: _Call


class Failed(Frame, frozen=True, tag=11):
    call: _Call
    error: WireError


FromCaller = Open | More | Credit | Cancel
FromCallee = Credit | Part | Data | Last | End | Failed
Numbered = FromCaller | FromCallee


class Block(Frame, frozen=True, tag=2):
    """hurry: acknowledge this one at once; farewell: the session ends now, with all its calls."""

    received: _Count
    frames: Annotated[list[Numbered], msgspec.Meta(max_length=MAX_FRAMES)]
    hurry: bool = False
    farewell: WireError | None = None


AnyFrame = Hello | Block | Numbered

MESSAGE_WEIGHT: Final = 64
"""What a message costs in credit beyond its bytes: about its objects in memory, so that empty ones are bounded."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Hello | Block]] = msgspec.msgpack.Decoder(Hello | Block)


def weight(message: bytes) -> int:
    """What a message costs in credit."""
    return len(message) + MESSAGE_WEIGHT


def pack(block: Hello | Block) -> bytes:
    """As it goes on the wire, its length before it."""
    return frame(_ENCODER.encode(block))


def unpack(body: bytes) -> Hello | Block:
    """Raises TetherError(FRAME_INVALID) for anything that is not exactly a greeting or a block of the table."""
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TetherError(FRAME_INVALID, f"These bytes are no frame: {error}.") from error
