"""One question on a stream of hop or stop, and its answer: bounded in bytes and in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from p2p.host.framing import Frames, framed
from p2p.host.relay.wire import MAX_BYTES
from p2p.host.streams import MuxedStream, unreachable

ANSWER_S: Final = 5.0
"""For the other side to answer, and within it for a relay to ask the target."""

_Read = TypeVar("_Read")


async def ask(stream: MuxedStream, question: bytes, read: Callable[[bytes], _Read]) -> tuple[_Read, bytes]:
    """The answer, and what came behind it. Raises TetherError; then the stream is reset."""
    try:
        with trio.move_on_after(ANSWER_S):
            await stream.write(framed(question))
            return await listen(stream, read)
        raise unreachable(f"{stream.peer} does not answer.")
    except BaseException:
        await stream.reset()
        raise


async def listen(stream: MuxedStream, read: Callable[[bytes], _Read]) -> tuple[_Read, bytes]:
    """One message, and what came behind it. Raises TetherError."""
    frames = Frames(stream, MAX_BYTES)
    return read(await frames.one()), frames.rest()
