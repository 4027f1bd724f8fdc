"""multistream-select 1.0, bounded: who opens says at once what it wants, so agreement costs one round trip.

libp2p's own reads a length from a stranger and allocates it; here a line has at most 256 bytes.
https://github.com/multiformats/multistream-select
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final, Protocol

from libp2p.io.exceptions import IncompleteReadError
from libp2p.protocol_muxer.exceptions import (
    MultiselectClientError,
    MultiselectError,
    ProtocolNotSupportedError,
)

GREETING: Final = "/multistream/1.0.0"
REFUSAL: Final = "na"
MAX_LINE_BYTES: Final = 256
MAX_OFFERS: Final = 8
"""Protocols that one stream may ask for before it is closed."""


class Pipe(Protocol):
    async def read(self, n: int) -> bytes: ...

    async def write(self, data: bytes) -> None: ...


async def ask(pipe: Pipe, protocols: Sequence[str]) -> str:
    """Agree on the first of protocols that the other side knows.

    Raises ProtocolNotSupportedError if it knows none, MultiselectClientError if it does not speak multistream.
    """
    await pipe.write(_line(GREETING) + _line(protocols[0]))
    if await _read(pipe) != GREETING:
        raise MultiselectClientError("The other side does not speak multistream.")
    for position, protocol in enumerate(protocols):
        if position:
            await pipe.write(_line(protocol))
        answer = await _read(pipe)
        if answer == protocol:
            return protocol
        if answer != REFUSAL:
            raise MultiselectClientError("The answer to a protocol is neither itself nor a refusal.")
    raise ProtocolNotSupportedError(f"None of {', '.join(protocols)} is spoken there.")


async def answer(pipe: Pipe, protocols: Container[str]) -> str:
    """Wait for a protocol that is among ours and confirm it. Raises MultiselectError."""
    await pipe.write(_line(GREETING))
    if await _read(pipe) != GREETING:
        raise MultiselectError("The other side does not speak multistream.")
    for _ in range(MAX_OFFERS):
        wanted = await _read(pipe)
        if wanted in protocols:
            await pipe.write(_line(wanted))
            return wanted
        await pipe.write(_line(REFUSAL))
    raise MultiselectError("Nothing that was asked for is spoken here.")


def _line(text: str) -> bytes:
    data = text.encode() + b"\n"
    return _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """A line is shorter than 2^14, so two bytes are enough."""
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80, value >> 7])


async def _read(pipe: Pipe) -> str:
    length = (await _exactly(pipe, 1))[0]
    if length & 0x80:
        length = length & 0x7F | (await _exactly(pipe, 1))[0] << 7
    if not 0 < length <= MAX_LINE_BYTES:
        raise MultiselectError("A line of multistream is out of bounds.")
    line = await _exactly(pipe, length)
    if line[-1:] != b"\n":
        raise MultiselectError("A line of multistream does not end.")
    return line[:-1].decode("ascii", errors="replace")


async def _exactly(pipe: Pipe, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await pipe.read(count - len(data))
        if not part:
            raise IncompleteReadError("The stream ended.", expected_bytes=count, received_bytes=len(data))
        data += part
    return data
