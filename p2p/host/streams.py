"""A muxed stream as the rest of Tether knows it, and as libp2p's own protocols want it."""

from __future__ import annotations

from contextlib import suppress

import trio
from libp2p.custom_types import TProtocol
from libp2p.network.stream.net_stream import NetStream, StreamState
from libp2p.stream_muxer.exceptions import MuxedStreamEOF

from p2p.errors import UNREACHABLE, TetherError
from p2p.host.errors import LIBP2P_FAULTS, broken
from p2p.host.muxer import EagerStream
from p2p.identity import PeerId


class MuxedStream:
    """Implements `Stream`. close ends this side's writing; the stream is forgotten when both sides have."""

    def __init__(self, peer: PeerId, muxed: EagerStream) -> None:
        self._peer = peer
        self._muxed = muxed

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def read(self, max_bytes: int) -> bytes:
        try:
            return await self._muxed.read(max_bytes)
        except MuxedStreamEOF:
            return b""
        except LIBP2P_FAULTS as error:
            raise broken(error) from error

    async def write(self, data: bytes) -> None:
        try:
            await self._muxed.write(data)
        except LIBP2P_FAULTS as error:
            raise broken(error) from error

    def write_now(self, data: bytes) -> bool:
        return self._muxed.write_now(data)

    async def close(self) -> None:
        try:
            await self._muxed.close()
        except LIBP2P_FAULTS as error:
            raise broken(error) from error

    async def reset(self) -> None:
        """Never raises: what is broken already needs no reset."""
        with trio.CancelScope(shield=True), suppress(*LIBP2P_FAULTS):
            await self._muxed.reset()


async def net_stream(muxed: EagerStream, protocol: str) -> NetStream:
    """For libp2p's own code."""
    stream = NetStream(muxed, None, None)
    await stream.set_state(StreamState.OPEN)
    stream.set_protocol(TProtocol(protocol))
    return stream


def unreachable(detail: str) -> TetherError:
    return TetherError(UNREACHABLE, detail)
