"""One question to one peer: dial me at this address, and say this number there."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final

import trio

from p2p.errors import FRAME_INVALID, TetherError
from p2p.host.addresses import TcpAddress
from p2p.host.connection import Connection
from p2p.host.framing import Frames, framed
from p2p.host.protobuf import varint
from p2p.host.reach.messages import (
    DIAL_BACK,
    DIAL_REQUEST,
    MAX_BYTES,
    Data,
    DataRequest,
    DialRequest,
    DialResponse,
    DialStatus,
    Status,
    read,
    read_nonce,
    write,
)
from p2p.host.streams import MuxedStream
from p2p.host.switch import Switch
from p2p.identity import PeerId
from p2p.transport import Stream

ASK_S: Final = 20.0
"""For one answer: data that pays for the dial, a pause of up to 3 s, and a dial of up to 5 s."""
LATE_S: Final = 1.0
"""The number comes by another connection than the answer, and may be behind it."""
MAX_PAID_BYTES: Final = 100_000
"""What an answerer may ask for a dial (AutoNAT v2: 30,000 to 100,000 bytes)."""
PIECE_BYTES: Final = 4_096
NONCE_BYTES: Final = 64


@dataclass(slots=True)
class _Awaited:
    """Who was asked to dial which address, and whether it did."""

    peer: PeerId
    address: TcpAddress
    said: trio.Event = field(default_factory=trio.Event)


class Asking:
    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._awaited: dict[int, _Awaited] = {}
        switch.apart.handlers[DIAL_BACK] = self._hear

    async def ask(self, peer: PeerId, address: TcpAddress) -> bool | None:
        """Whether the peer's dial arrived at address. None: it did not try, or what it says contradicts itself."""
        nonce = secrets.randbits(64)
        awaited = self._awaited[nonce] = _Awaited(peer, address)
        try:
            with trio.move_on_after(ASK_S), self._switch.apart.awaiting(peer):
                answer = await self._exchange(peer, DialRequest((str(address),), nonce))
                if answer.status is Status.OK and answer.dial is not DialStatus.DIAL_ERROR:
                    with trio.move_on_after(LATE_S):
                        await awaited.said.wait()
                return _verdict(answer, said=awaited.said.is_set())
        except TetherError:
            pass
        finally:
            del self._awaited[nonce]
        return True if awaited.said.is_set() else None

    async def _exchange(self, peer: PeerId, request: DialRequest) -> DialResponse:
        """Raises TetherError."""
        stream, _ = await self._switch.open(peer, [DIAL_REQUEST])
        try:
            await stream.write(framed(write(request)))
            frames = Frames(stream, MAX_BYTES)
            answer = read(await frames.one())
            if isinstance(answer, DataRequest):
                await _pay(stream, answer)
                answer = read(await frames.one())
            if not isinstance(answer, DialResponse) or answer.index:
                raise TetherError(FRAME_INVALID, "This is no answer to the question.")
            return answer
        finally:
            await stream.reset()

    async def _hear(self, stream: MuxedStream, connection: Connection) -> None:
        """A number on a connection that somebody made to this node."""
        nonce = read_nonce(await Frames(stream, NONCE_BYTES).one())
        awaited = self._awaited.get(nonce)
        if awaited is not None and awaited.peer == connection.peer and self._as_asked(connection, awaited):
            awaited.said.set()
            await stream.write(framed(varint(1, 0)))
        await stream.close()

    def _as_asked(self, connection: Connection, awaited: _Awaited) -> bool:
        """Not at another of this machine's addresses, nor from where a router lets answers in anyway."""
        local, remote = connection.path.local, connection.path.remote
        known = (self._switch.path(peer) for peer in self._switch.peers())
        answered = any(path is not None and path.remote == remote for path in known)
        own = awaited.address.ip in self._switch.ips()
        return local is not None and not answered and (not own or local.host == awaited.address.host)


def _verdict(answer: DialResponse, *, said: bool) -> bool | None:
    """The number proves a dial that arrived, whatever else is said; without it there was none."""
    if said:
        return True
    return False if answer.status is Status.OK and answer.dial is DialStatus.DIAL_ERROR else None


async def _pay(stream: Stream, wanted: DataRequest) -> None:
    if wanted.index or wanted.size > MAX_PAID_BYTES:
        raise TetherError(FRAME_INVALID, "A dial costs at most 100,000 bytes.")
    left = wanted.size
    while left > 0:
        await stream.write(framed(write(Data(bytes(min(left, PIECE_BYTES))))))
        left -= PIECE_BYTES
