"""One admitted peer's connection: its muxer, its streams, and who the peer proved to be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Final

import trio

from p2p.errors import UNREACHABLE, TetherError
from p2p.host.errors import HOSTILE_BYTES, ConnectionLost, broken
from p2p.host.handshake import Secured
from p2p.host.link import Link
from p2p.host.negotiate import Holding, NotSpoken, answer, ask
from p2p.host.paths import UNKNOWN_PATH, Path
from p2p.host.streams import MuxedStream, NotOffered, unreachable
from p2p.host.yamux.budget import MAX_STREAMS, Budget
from p2p.host.yamux.flow import Flow
from p2p.host.yamux.muxer import YAMUX, Muxer
from p2p.host.yamux.session import TooManyStreams
from p2p.membership import Guest
from p2p.transport import CONTROL

NEGOTIATE_S: Final = 5.0
"""For the peer to say what a stream that it opened is for."""

StreamAnswer = Callable[[str, MuxedStream], Awaitable[None]]


class Connection:
    """Made by `agree` once both sides are admitted; lives as long as `run`."""

    def __init__(
        self, secured: Secured, *, outbound: bool, ahead: bytes, budget: Budget | None, path: Path
    ) -> None:
        self.peer = secured.peer
        self.admission = secured.admission
        self.outbound = outbound
        self.path = path
        self.born = self.used = trio.current_time()
        self.muxer = Muxer(secured.link, initiator=outbound, accept=self._accept, budget=budget, ahead=ahead)
        self.dismissed = False
        """This side has ended it, or is about to."""
        self.spoken: set[str] = set()
        """Protocols that the peer has agreed to, on this connection or an earlier one."""
        self._protocols: Container[str] = ()
        self._serve: StreamAnswer | None = None
        self._handlers: trio.Nursery | None = None
        self._answering = 0

    @property
    def guest(self) -> bool:
        return isinstance(self.admission, Guest)

    @property
    def open(self) -> bool:
        return not self.muxer.closed

    @property
    def parted(self) -> bool:
        """Whether one of the two said goodbye: then it ended on purpose, and says nothing of the other's health."""
        return self.dismissed or self.muxer.session.goodbye is not None

    async def run(self, protocols: Container[str], serve: StreamAnswer, handlers: trio.Nursery) -> None:
        """Carry streams until the connection is gone. protocols: what this peer may open, asked for each stream.

        handlers: where the answers run; they outlive the connection, and notice when they read or write. Raises
        PeerFault if the peer broke the rules.
        """
        self._protocols, self._serve, self._handlers = protocols, serve, handlers
        await self.muxer.run()

    async def close(self) -> None:
        """End it politely; `run` returns soon after."""
        self.dismissed = True
        with trio.CancelScope(shield=True):
            await self.muxer.close()

    async def open_stream(self, protocols: Sequence[str], priority: int = CONTROL) -> tuple[MuxedStream, str]:
        """Open a stream for the first of protocols that the peer offers. Raises NotOffered, or UNREACHABLE.

        What the peer has agreed to before is not asked for again: the proposal goes out with the first bytes.
        """
        try:
            stream = MuxedStream(self.peer, self.muxer, self.muxer.open(priority))
            self.used = trio.current_time()
        except TooManyStreams as error:
            raise unreachable(f"{MAX_STREAMS} streams to {self.peer} are open.") from error
        except ConnectionLost as error:
            raise broken(error) from error
        if protocols[0] in self.spoken:
            await trio.lowlevel.checkpoint_if_cancelled()
            stream.assume(protocols[0], self.spoken)
            return stream, protocols[0]
        try:
            protocol = await ask(stream, protocols)
        except NotSpoken as error:
            await stream.reset()
            raise NotOffered(
                UNREACHABLE, f"{self.peer} does not offer {protocols[0]} to this node."
            ) from error
        except HOSTILE_BYTES as error:
            await stream.reset()
            raise broken(error) from error
        except BaseException:
            await stream.reset()
            raise
        self.spoken.add(protocol)
        return stream, protocol

    def _accept(self, flow: Flow) -> None:
        """A peer that opens and resets in turns holds no stream open, but keeps us busy all the same."""
        assert self._handlers is not None
        if self._answering >= MAX_STREAMS:
            self.muxer.session.abort(flow)
            return
        self._answering += 1
        self.used = trio.current_time()
        self._handlers.start_soon(self._answer, MuxedStream(self.peer, self.muxer, flow))

    async def _answer(self, stream: MuxedStream) -> None:
        assert self._serve is not None
        try:
            with trio.fail_after(NEGOTIATE_S):
                protocol = await answer(stream, self._protocols)
                stream.agreed()
            await self._serve(protocol, stream)
        except (*HOSTILE_BYTES, TetherError, trio.TooSlowError):
            await stream.reset()
        finally:
            self._answering -= 1


async def agree(
    secured: Secured, *, outbound: bool, budget: Budget | None = None, path: Path = UNKNOWN_PATH
) -> Connection:
    """Agree on yamux, the only muxer. Raises HOSTILE_BYTES. budget: what the windows of all connections share.

    Within the handshake (stream_muxers) this would cost no round trip; but its answer is what tells a dialler that it
    was admitted, and that its dial stands where both sides dialled at once.
    """
    pipe = _Plain(secured.link)
    if outbound:
        await ask(pipe, [YAMUX])
    else:
        await answer(pipe, (YAMUX,))
        await pipe.let_go()
    return Connection(secured, outbound=outbound, ahead=bytes(pipe.ahead), budget=budget, path=path)


class _Plain(Holding):
    """A link as far as the agreement reads it; what comes too early is kept for the muxer."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def _waits(self) -> bool:
        return not self._link.ready

    async def _send(self, data: bytes) -> None:
        await self._link.send(data)

    async def _receive(self) -> memoryview:
        return await self._link.receive()
