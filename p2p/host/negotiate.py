"""multistream-select 1.0, bounded: who opens says at once what it wants, so agreement costs one round trip.

Where the answer is certain, who opens sends its first data right behind the proposal and compares the answer, which
is then known byte for byte, when it first reads: no round trip at all. What a side says is held until it has to wait
for the other one, so that an agreement and what follows it leave in one packet.

libp2p's own reads a length from a stranger and allocates it; here a line has at most 256 bytes.
https://github.com/multiformats/multistream-select
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from typing import Final, Protocol

from p2p.host.errors import ConnectionLost, PeerFault

GREETING: Final = "/multistream/1.0.0"
REFUSAL: Final = "na"
MAX_LINE_BYTES: Final = 256
MAX_OFFERS: Final = 8
"""Protocols that one stream may ask for before it is closed."""


class NotSpoken(ConnectionLost):
    """The other side speaks none of what it was asked for."""


class Pipe(Protocol):
    async def read(self, n: int) -> bytes: ...

    def hold(self, data: bytes) -> None:
        """Send data with what comes next, at the latest when `read` has to wait."""
        ...


class Holding(ABC):
    """Implements `Pipe` over whatever sends and receives.

    held: what was said and not sent. ahead: what was received and not read.
    """

    def __init__(self) -> None:
        self.ahead = bytearray()
        self.held = b""

    def hold(self, data: bytes) -> None:
        self.held += data

    async def let_go(self) -> None:
        """Send what is held."""
        held, self.held = self.held, b""
        if held:
            await self._send(held)

    async def read(self, n: int) -> bytes:
        if not self.ahead:
            if self._waits():
                await self.let_go()
            self.ahead += await self._receive()
        data = bytes(self.ahead[:n])
        del self.ahead[:n]
        return data

    def _waits(self) -> bool:
        """Whether receiving has to wait, as far as that is known."""
        return True

    @abstractmethod
    async def _send(self, data: bytes) -> None: ...

    @abstractmethod
    async def _receive(self) -> bytes | memoryview:
        """At least one byte; none at the end."""


async def ask(pipe: Pipe, protocols: Sequence[str]) -> str:
    """Agree on the first of protocols that the other side knows.

    Raises NotSpoken if it knows none, PeerFault if it does not speak multistream.
    """
    pipe.hold(exchange(protocols[0]))
    if await _read(pipe) != GREETING:
        raise PeerFault("The other side does not speak multistream.")
    for position, protocol in enumerate(protocols):
        if position:
            pipe.hold(_line(protocol))
        answer = await _read(pipe)
        if answer == protocol:
            return protocol
        if answer != REFUSAL:
            raise PeerFault("The answer to a protocol is neither itself nor a refusal.")
    raise NotSpoken(f"None of {', '.join(protocols)} is spoken there.")


async def answer(pipe: Pipe, protocols: Container[str]) -> str:
    """Wait for a protocol that is among ours; its confirmation is held. Raises PeerFault, ConnectionLost."""
    pipe.hold(_line(GREETING))
    if await _read(pipe) != GREETING:
        raise PeerFault("The other side does not speak multistream.")
    for _ in range(MAX_OFFERS):
        wanted = await _read(pipe)
        if wanted in protocols:
            pipe.hold(_line(wanted))
            return wanted
        pipe.hold(_line(REFUSAL))
    raise PeerFault("Nothing that was asked for is spoken here.")


def exchange(protocol: str) -> bytes:
    """What each side says when they agree on the first proposal: the proposal, and its acceptance."""
    return _line(GREETING) + _line(protocol)


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
        raise PeerFault("A line of multistream is out of bounds.")
    line = await _exactly(pipe, length)
    if line[-1:] != b"\n":
        raise PeerFault("A line of multistream does not end.")
    return line[:-1].decode("ascii", errors="replace")


async def _exactly(pipe: Pipe, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await pipe.read(count - len(data))
        if not part:
            raise ConnectionLost("The stream ended.")
        data += part
    return data
