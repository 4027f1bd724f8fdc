"""One dial for a peer that asked for it: from a socket of its own, to an address that is no weapon.

request ─ too many? rejected ─ none to dial? refused ─ another's IP address? 30,000 bytes and a pause ─> dial
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from typing import Final

import trio

from p2p.errors import FRAME_INVALID, TetherError
from p2p.host.addresses import TcpAddress, is_circuit, parse
from p2p.host.framing import Frames, framed
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
    write,
    write_nonce,
)
from p2p.host.scores import Scores
from p2p.host.switch import Switch
from p2p.identity import PeerId
from p2p.transport import Stream

SERVE_S: Final = 18.0
"""For a whole request: a peer that pays slowly is not waited for."""
DIAL_S: Final = 5.0
PEER_LIMIT: Final = 24.0
"""Requests of one peer, faded by half each minute: four rounds about six addresses."""
LIMIT: Final = 120.0
"""Of all peers together: what it costs to answer stays below one dial a second."""
MAX_DIALS: Final = 8
"""At a time."""
PEER_DIALS: Final = 3
"""At a time for one peer, which has as many addresses to ask about at most in two families."""
PRICE_BYTES: Final = (30_000, 100_000)
"""For a dial to an IP address that the asker does not use: more than a handshake costs whoever is dialled."""
MAX_PAUSE_S: Final = 3.0
"""Before such a dial, so that many askers do not have many dial at one moment."""
_NO_WAY: Final = (errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""This machine cannot dial there, which says nothing of the address."""


class Answering:
    """Offers AutoNAT v2's dial-request to members. rng: for prices and pauses."""

    def __init__(self, switch: Switch, rng: random.Random) -> None:
        self._switch = switch
        self._rng = rng
        self._asked, self._load = Scores(PEER_LIMIT), Scores(LIMIT)
        self._dialling: Counter[PeerId] = Counter()
        switch.handle(DIAL_REQUEST, self._serve, guests=False)

    async def _serve(self, stream: Stream) -> None:
        with trio.move_on_after(SERVE_S):
            frames = Frames(stream, MAX_BYTES)
            request = read(await frames.one())
            if not isinstance(request, DialRequest):
                raise TetherError(FRAME_INVALID, "A dial request was expected.")
            await stream.write(framed(write(await self._answer(stream, frames, request))))

    async def _answer(self, stream: Stream, frames: Frames, request: DialRequest) -> DialResponse:
        peer, now = stream.peer, trio.current_time()
        busy = self._dialling[peer] >= PEER_DIALS or self._dialling.total() >= MAX_DIALS
        if busy or self._asked.refused(peer, now) or self._load.refused("all", now):
            return DialResponse(Status.REJECTED)
        self._asked.mark(peer, 1.0, now)
        self._load.mark("all", 1.0, now)
        self._dialling[peer] += 1
        try:
            return await self._try(stream, frames, request)
        finally:
            self._dialling[peer] -= 1
            self._dialling += Counter()

    async def _try(self, stream: Stream, frames: Frames, request: DialRequest) -> DialResponse:
        path = self._switch.path(stream.peer)
        here = path.remote if path is not None else None
        if here is None:  # over a relay, whose address is not the asker's
            return DialResponse(Status.DIAL_REFUSED)
        for index, text in enumerate(request.addresses):
            target = _target(text)
            if target is not None and (target.host == here.host or self._foreign(target)):
                if target.host != here.host:
                    await self._charge(stream, frames, index)
                return await self._dial(stream.peer, target, index, request.nonce)
        return DialResponse(Status.DIAL_REFUSED)

    def _foreign(self, target: TcpAddress) -> bool:
        """Whether it is one of the internet's, and not this machine's own."""
        return target.ip is not None and target.ip.is_global and target.ip not in self._switch.ips()

    async def _charge(self, stream: Stream, frames: Frames, index: int) -> None:
        due = self._rng.randint(*PRICE_BYTES)
        await stream.write(framed(write(DataRequest(index, due))))
        while due > 0:
            piece = read(await frames.one())
            if not isinstance(piece, Data) or not piece.data:
                raise TetherError(FRAME_INVALID, "Data that pays for a dial was expected.")
            due -= len(piece.data)
        await trio.sleep(self._rng.uniform(0.0, MAX_PAUSE_S))

    async def _dial(self, peer: PeerId, target: TcpAddress, index: int, nonce: int) -> DialResponse:
        found = DialStatus.DIAL_ERROR
        with trio.move_on_after(DIAL_S):
            try:
                async with self._switch.apart.dial(peer, target) as connection:
                    found = DialStatus.DIAL_BACK_ERROR
                    stream, _ = await connection.open_stream([DIAL_BACK])
                    await stream.write(framed(write_nonce(nonce)))
                    await stream.close()
                    if await stream.read(MAX_BYTES):
                        found = DialStatus.OK
            except OSError as error:
                if _errnos(error) <= set(_NO_WAY):
                    return DialResponse(Status.DIAL_REFUSED, index)
            except TetherError:
                found = DialStatus.DIAL_BACK_ERROR
        return DialResponse(Status.OK, index, found)


def _target(text: str) -> TcpAddress | None:
    """No names: what they mean changes between the check and the dial."""
    if not text or is_circuit(text):
        return None
    address = parse(text)
    return address if address.ip is not None else None


def _errnos(error: OSError) -> set[int]:
    """trio raises one OSError around those of its attempts."""
    if isinstance(error.__cause__, BaseExceptionGroup):
        return {one.errno or 0 for one in error.__cause__.exceptions if isinstance(one, OSError)}
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return {cause.errno or 0}
