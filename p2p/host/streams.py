"""A stream as everybody above holds it, and as libp2p's Pubsub wants it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import trio
from libp2p.network.stream.exceptions import StreamClosed, StreamReset
from libp2p.peer.id import ID

from p2p.errors import UNREACHABLE, TetherError
from p2p.host.negotiate import exchange
from p2p.host.noise.transport import MAX_PLAIN_BYTES
from p2p.host.yamux.flow import Flow
from p2p.host.yamux.muxer import BURST, Muxer
from p2p.identity import PeerId

FEED_BYTES: Final = 64 * 1024
"""What a sink gets at a time, at most."""


class NotOffered(TetherError):
    """The peer is there and does not speak the protocol, at least not to this node."""


class MuxedStream:
    """Implements `Stream`. close ends this side's writing; the stream is forgotten when both sides have.

    One task may read and one may write at a time. Operations that need not wait yield to other tasks now and then,
    not each time: that would cost more than the operation.
    """

    def __init__(self, peer: PeerId, muxer: Muxer, flow: Flow) -> None:
        self._peer = peer
        self._muxer = muxer
        self._flow = flow
        self._reader: trio.lowlevel.Task | None = None
        self._writer: trio.lowlevel.Task | None = None
        self._sink: Callable[[bytes], None] | None = None
        self._pouring = False
        self._fault: TetherError | None = None
        self._hurry = 0
        self._held = self._agreement = b""
        self._agreed = bytearray()
        self._disappointed: Callable[[], None] = lambda: None
        flow.changed = self._changed

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def priority(self) -> int:
        return self._flow.priority

    @priority.setter
    def priority(self, priority: int) -> None:
        self._flow.priority = priority

    def assume(self, protocol: str, spoken: set[str]) -> None:
        """Take the peer's agreement for granted: the proposal goes out with the first bytes, the answer is compared.

        spoken: what the peer agreed to before; a peer that does not any more is asked the next time.
        """
        self._agreement = exchange(protocol)
        self.hold(self._agreement)
        self._disappointed = partial(spoken.discard, protocol)

    def hold(self, data: bytes) -> None:
        """Send data with what is written next, at the latest when a reader has to wait."""
        self._held += data

    def agreed(self) -> None:
        """The protocol is clear: who waits for that is told, who sent more already hears it with the answer."""
        if self._held and not self._flow.buffered:
            self._let_go()

    async def read(self, max_bytes: int) -> bytes:
        """Raises NotOffered where the peer's agreement was assumed and not given."""
        while self._agreement:
            part = await self._read(len(self._agreement) - len(self._agreed))
            self._agreed += part
            if not part or not self._agreement.startswith(self._agreed):
                self._disappointed()
                raise NotOffered(UNREACHABLE, f"{self._peer} does not offer this any more.")
            if len(self._agreed) == len(self._agreement):
                self._agreement = b""
        return await self._read(max_bytes)

    def _let_go(self) -> None:
        """Offer what is held without waiting until it is on its way: another task may be about to write."""
        self._check_writable()
        held, self._held = self._held, b""
        self._muxer.session.offer(self._flow, memoryview(held))
        self._muxer.flush()

    async def feed(self, sink: Callable[[bytes], None]) -> None:
        """The task that reads the connection calls sink, and this one only waits for the end."""
        if self._agreement:
            if not (first := await self.read(FEED_BYTES)):
                return
            sink(first)
        self._sink, self._fault = sink, None
        try:
            self._pour()
            if self._held:
                self._let_go()
            if self._muxer.session.waiting:
                self._muxer.flush()
            while self._fault is None and not self._at_end():
                await self._sleep()
        finally:
            self._sink = None
        await trio.lowlevel.checkpoint()
        if self._fault is not None:
            raise self._fault

    def _pour(self) -> None:
        """Hand what is buffered to the sink. What that writes may change the stream once more, which is no new turn."""
        self._pouring = True
        try:
            while self._sink is not None and self._flow.buffered:
                self._sink(self._muxer.session.take(self._flow, FEED_BYTES))
        except TetherError as error:
            self._sink, self._fault = None, error
        finally:
            self._pouring = False

    async def _read(self, max_bytes: int) -> bytes:
        flow = self._flow
        if flow.buffered:
            await self._breathe()
        while not flow.buffered:
            if self._at_end():
                await trio.lowlevel.checkpoint()
                return b""
            if self._held:
                self._let_go()
            else:
                await self._sleep()
        data = self._muxer.session.take(flow, max_bytes)
        if self._muxer.session.waiting:
            self._muxer.flush()
        return data

    def _at_end(self) -> bool:
        """Whether nothing comes any more behind what is buffered. Raises TetherError(UNREACHABLE) if it is broken."""
        if self._flow.reset:
            raise _broken("The peer reset the stream.")
        if self._flow.fin_got:
            return True
        if self._muxer.closed:
            raise _broken("The connection is gone.")
        return False

    async def _sleep(self) -> None:
        """Until `_changed` has something for a reader."""
        if self._reader is not None:
            raise trio.BusyResourceError("another task reads this stream")
        self._reader = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._reader_leaves)

    async def write(self, data: bytes) -> None:
        """Returns once all of data is on its way; waits for the reader as long as that takes."""
        await self._breathe()
        flow = self._flow
        self._check_writable()
        if self._writer is not None:
            raise trio.BusyResourceError("another task writes to this stream")
        await self._offered()
        if self._held:
            data, self._held = self._held + data, b""
        elif not data:
            return
        muxer = self._muxer
        muxer.session.offer(flow, memoryview(data))
        muxer.flush()
        await self._offered()
        if flow.reset:
            self._check_writable()

    def write_now(self, data: bytes) -> bool:
        """What higher priorities hold back is on its way all the same; the next write waits for it."""
        flow, muxer = self._flow, self._muxer
        if flow.pending or flow.reset or flow.fin_wanted or muxer.closed or muxer.full:
            return False
        if len(self._held) + len(data) > min(flow.send_left, MAX_PLAIN_BYTES):
            return False
        muxer.session.offer(flow, memoryview(self._held + data if self._held else data))
        self._held = b""
        muxer.flush()
        return True

    async def _offered(self) -> None:
        while self._flow.pending:
            self._check_writable()
            self._writer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._writer_leaves)

    async def close(self) -> None:
        if self._held:
            await self.write(b"")
        await self._breathe()
        if not self._muxer.closed:
            self._muxer.session.finish(self._flow)
            self._muxer.flush()

    async def reset(self) -> None:
        """Never raises: what is broken already needs no reset."""
        if not self._muxer.closed:
            self._muxer.session.abort(self._flow)
            self._muxer.flush()
        self._changed()

    def _check_writable(self) -> None:
        flow = self._flow
        if flow.reset:
            raise _broken("The stream was reset.")
        if self._muxer.closed:
            raise _broken("The connection is gone.")
        if flow.fin_wanted:
            raise _broken("The stream is closed.")

    async def _breathe(self) -> None:
        """A checkpoint, whose yielding half comes due every few operations."""
        self._hurry += 1
        if self._hurry < BURST:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._hurry = 0
            await trio.lowlevel.checkpoint()

    def _changed(self) -> None:
        """The session, or the end of the connection, may have given somebody here what they wait for."""
        flow = self._flow
        if self._sink is not None and flow.buffered and not self._pouring:
            self._pour()
        if self._reader is not None and (
            self._sink is None or flow.reset or flow.fin_got or self._muxer.closed
        ):
            trio.lowlevel.reschedule(self._reader)
            self._reader = None
        if self._writer is not None and (not flow.pending or flow.reset or self._muxer.closed):
            trio.lowlevel.reschedule(self._writer)
            self._writer = None

    def _reader_leaves(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _writer_leaves(self, _: object) -> trio.lowlevel.Abort:
        """The bytes may be the caller's to change again."""
        self._writer = None
        self._muxer.session.withdraw(self._flow)
        return trio.lowlevel.Abort.SUCCEEDED


class PubsubStream:
    """As much of libp2p's `INetStream` as its Pubsub uses."""

    def __init__(self, stream: MuxedStream, protocol: str) -> None:
        self.stream = stream
        self.muxed_conn = _PubsubConnection(ID.from_base58(stream.peer))
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    async def write(self, data: bytes) -> None:
        """Raises StreamClosed, which Pubsub knows."""
        try:
            await self.stream.write(data)
        except TetherError as error:
            raise StreamClosed(error.detail) from error

    async def read(self, n: int | None = None) -> bytes:
        """Raises StreamReset."""
        try:
            return await self.stream.read(n or READ_BYTES)
        except TetherError as error:
            raise StreamReset(error.detail) from error

    async def close(self) -> None:
        await self.stream.close()

    async def reset(self) -> None:
        await self.stream.reset()


class _PubsubConnection:
    def __init__(self, peer: ID) -> None:
        self.peer_id = peer


READ_BYTES: Final = 65_536


def unreachable(detail: str) -> TetherError:
    return TetherError(UNREACHABLE, detail)


def _broken(why: str) -> TetherError:
    return TetherError(UNREACHABLE, f"The connection broke: {why}")
