"""The frames of a call's life: msgpack arrays, the kind first, length-prefixed by `p2p.frames`.

A session is a caller's lane to a peer; it has one stream at a time and outlives each. The caller opens the stream.

| kind | frame   | from   | fields                                                            | numbered |
|------|---------|--------|-------------------------------------------------------------------|----------|
| 1    | HELLO   | caller | version, instance (8 bytes), serial, resume, received, credit     |          |
| 2    | WELCOME | callee | received                                                          |          |
| 3    | ACK     | both   | received                                                          |          |
| 4    | GOODBYE | both   | error: the session ends now, with all its calls                   |          |
| 5    | OPEN    | caller | call, correlation (16 bytes), method, priority, timeoutMs, credit, request | yes |
| 6    | CREDIT  | caller | call (0: the whole session), amount                               | yes      |
| 7    | CANCEL  | caller | call                                                              | yes      |
| 8    | DATA    | callee | call, message                                                     | yes      |
| 9    | LAST    | callee | call, message; ends the call                                      | yes      |
| 10   | END     | callee | call; ends the call                                               | yes      |
| 11   | FAILED  | callee | call, error; ends the call                                        | yes      |

Numbered frames count from 0 in each direction of a session, without the number being written: streams keep order.
`received` is how many of the other's numbered frames have arrived; whatever lies beyond is kept by its sender and
sent again on the session's next stream, so nothing is lost and nothing comes twice. Calls are numbered by the caller
from 1, never reused within a session; a frame of a call that has ended is late, and dropped.

The session's first stream goes out in one write, HELLO and the calls behind it. On a later one the caller waits for
WELCOME, which says where to go on. resume says that a WELCOME was seen before: then a callee that does not know the
session says GOODBYE instead of beginning it anew. instance is drawn when a node starts; a new one ends the sessions
of the old.

Credit is in bytes of messages, each weighing its length and MESSAGE_WEIGHT. A message may be sent while both the
call's and the session's credit are positive, however large it is; so a window need not be as large as the largest
message, and the overshoot is one message.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from p2p.errors import FRAME_INVALID, TetherError, WireError
from p2p.frames import frame

VERSION: Final = 1

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62) - 1)]
_Call = Annotated[int, msgspec.Meta(ge=1, le=(1 << 32) - 1)]


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """What all frames share: an array on the wire, unknown fields at its end ignored."""


class Hello(Frame, frozen=True, tag=1):
    version: int
    instance: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    serial: _Count
    resume: bool
    received: _Count
    credit: _Count


class Welcome(Frame, frozen=True, tag=2):
    received: _Count


class Ack(Frame, frozen=True, tag=3):
    received: _Count


class Goodbye(Frame, frozen=True, tag=4):
    error: WireError


class Open(Frame, frozen=True, tag=5):
    """timeout_ms: what is left of it when the frame is made; None: no deadline."""

    call: _Call
    correlation: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    method: Annotated[str, msgspec.Meta(max_length=64)]
    priority: Annotated[int, msgspec.Meta(ge=0, le=2)]
    timeout_ms: _Count | None
    credit: _Count
    request: bytes


class Credit(Frame, frozen=True, tag=6):
    call: Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
    amount: _Count


class Cancel(Frame, frozen=True, tag=7):
    call: _Call


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


FromCaller = Open | Credit | Cancel
FromCallee = Data | Last | End | Failed
Numbered = FromCaller | FromCallee
AnyFrame = Hello | Welcome | Ack | Goodbye | Numbered

MESSAGE_WEIGHT: Final = 64
"""What a message costs in credit beyond its bytes: about its objects in memory, so that empty ones are bounded."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[AnyFrame]] = msgspec.msgpack.Decoder(AnyFrame)


def weight(message: bytes) -> int:
    """What a message costs in credit."""
    return len(message) + MESSAGE_WEIGHT


def pack(unpacked: AnyFrame) -> bytes:
    """A frame as it goes on the wire, its length before it."""
    return frame(_ENCODER.encode(unpacked))


def unpack(body: bytes) -> AnyFrame:
    """Raises TetherError(FRAME_INVALID) for anything that is not exactly one frame of the table."""
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TetherError(FRAME_INVALID, f"These bytes are no frame: {error}.") from error
