"""One admitted peer's connection: its muxer, its streams, and who the peer proved to be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence
from contextlib import suppress
from typing import Final

import trio
from libp2p.protocol_muxer.exceptions import ProtocolNotSupportedError
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable

from p2p.errors import UNREACHABLE, TetherError
from p2p.host.errors import HOSTILE_BYTES, LIBP2P_FAULTS, broken
from p2p.host.handshake import Secured
from p2p.host.muxer import YAMUX, EagerStream, Muxer
from p2p.host.negotiate import answer, ask
from p2p.membership import Guest

MAX_INBOUND_STREAMS: Final = 256
"""That a peer may hold open at a time; the next one is reset. yamux's own backlog limit is the same."""
NEGOTIATE_S: Final = 5.0
"""For the peer to say what a stream that it opened is for."""


class NotOffered(TetherError):
    """The peer is there and does not speak the protocol, at least not to this node."""


StreamAnswer = Callable[[str, EagerStream], Awaitable[None]]


class Connection:
    """Made by `agree` once both sides are admitted; lives as long as `run`."""

    def __init__(self, secured: Secured, raw: trio.abc.Stream, muxer: Muxer, *, outbound: bool) -> None:
        self.peer = secured.peer
        self.admission = secured.admission
        self.outbound = outbound
        self.born = trio.current_time()
        self.muxer = muxer
        self._raw = raw
        self._inbound = 0

    @property
    def guest(self) -> bool:
        return isinstance(self.admission, Guest)

    @property
    def open(self) -> bool:
        return not self.muxer.event_shutting_down.is_set()

    async def run(self, protocols: Container[str], serve: StreamAnswer, handlers: trio.Nursery) -> None:
        """Carry streams until the connection is gone. protocols: what this peer may open, asked for each stream.

        handlers: where the answers run; they outlive the connection, and notice when they read or write.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept, protocols, serve, handlers)
                await self.muxer.start()
                nursery.cancel_scope.cancel()
        finally:
            await self.muxer.abandon()
            await trio.aclose_forcefully(self._raw)

    async def close(self) -> None:
        """End it politely; `run` returns soon after."""
        with trio.CancelScope(shield=True):
            await self.muxer.close()

    async def open_stream(self, protocols: Sequence[str]) -> tuple[EagerStream, str]:
        """Open a stream for the first of protocols that the peer offers. Raises NotOffered, or UNREACHABLE."""
        await self.muxer.event_started.wait()
        stream: EagerStream | None = None
        try:
            stream = await self.muxer.open_eager()
            return stream, await ask(stream, protocols)
        except ProtocolNotSupportedError as error:
            await _discard(stream)
            raise NotOffered(
                UNREACHABLE, f"{self.peer} does not offer {protocols[0]} to this node."
            ) from error
        except HOSTILE_BYTES as error:
            await _discard(stream)
            raise broken(error) from error
        except trio.Cancelled:
            await _discard(stream)
            raise

    async def _accept(self, protocols: Container[str], serve: StreamAnswer, handlers: trio.Nursery) -> None:
        while True:
            try:
                stream = await self.muxer.accept_eager()
            except MuxedConnUnavailable:
                return
            if self._inbound >= MAX_INBOUND_STREAMS:
                await _discard(stream)
            else:
                self._inbound += 1
                handlers.start_soon(self._answer, stream, protocols, serve)

    async def _answer(self, stream: EagerStream, protocols: Container[str], serve: StreamAnswer) -> None:
        try:
            try:
                with trio.fail_after(NEGOTIATE_S):
                    protocol = await answer(stream, protocols)
            except (*HOSTILE_BYTES, trio.TooSlowError):
                await _discard(stream)
                return
            await serve(protocol, stream)
        finally:
            self._inbound -= 1


async def agree(secured: Secured, raw: trio.abc.Stream, *, outbound: bool) -> Connection:
    """Agree on yamux, the only muxer. Raises HOSTILE_BYTES."""
    if outbound:
        await ask(secured.session, [YAMUX])
    else:
        await answer(secured.session, (YAMUX,))
    muxer = Muxer(secured.session, secured.session.remote_peer, initiator=outbound)
    return Connection(secured, raw, muxer, outbound=outbound)


async def _discard(stream: EagerStream | None) -> None:
    if stream is not None:
        with trio.CancelScope(shield=True), suppress(*LIBP2P_FAULTS):
            await stream.reset()
