"""Numbered frames in order, exactly once, over as many streams as it takes.

    send ──> queue ──> written in a block, and kept ──> acknowledged, forgotten
                               └── the stream broke: sent again on the next, from where the peer stands

What breaks a stream and what ends the channel are told apart by the code that `carry` returns: UNREACHABLE is a
broken stream, after which another may go on; anything else is the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Final

import trio

from p2p.errors import CALL_LOST, FRAME_INVALID, UNREACHABLE, TetherError, WireError
from p2p.frames import READ_BYTES
from p2p.rpc.bell import Bell
from p2p.rpc.frames import Block, Numbered, pack, unpack
from p2p.rpc.latency import Latency
from p2p.rpc.limits import RpcLimits
from p2p.rpc.outbox import Outbox
from p2p.transport import Stream

HANDS: Final = 64
"""Senders that go on at a time when there is room: a batch of small frames."""


class Channel:
    """One lane, both ways. received: frames of the peer's so far; heard: whether it has ever said anything."""

    def __init__(self, limits: RpcLimits, latency: Latency) -> None:
        self.received = 0
        self.heard = False
        self.outbox = Outbox(limits)
        self.room = trio.lowlevel.ParkingLot()
        self._limits = limits
        self._latency = latency
        self._acked = 0
        self._unacked_bytes = 0
        self._hurried = False
        self._probe: tuple[int, float] | None = None
        self._next_probe = -inf
        self._writer = Bell()
        self._stream: Stream | None = None
        self._link: trio.CancelScope | None = None
        self._mid_write = False
        self._refused = b""
        self._stopping = False
        self._dismissed = False
        self._interruption = TetherError(UNREACHABLE, "The connection broke.")

    @property
    def carried(self) -> bool:
        """Whether a stream carries this channel now."""
        return self._link is not None

    def send(self, frame: Numbered, size: int = 0) -> None:
        """Queue a frame for the next block. size: bytes of the message in it."""
        self.outbox.put(frame, size)
        self._writer.ring()

    def write_soon(self) -> None:
        """There is something in the outbox."""
        self._writer.ring()

    def flush(self) -> None:
        """Write what is in the outbox, or an acknowledgement that is due; here and now if nothing is in the way."""
        outbox = self.outbox
        if not outbox.queued and not self._ack_is_due():
            return
        if self._stream is None or self._mid_write or self._refused or not outbox.fits_one_block:
            self._writer.ring()
            return
        block = self._next_block()
        if block and not self._stream.write_now(block):
            self._refused = block
            self._writer.ring()

    def interrupt(self, why: TetherError | None = None) -> None:
        """Let `carry` return. why: the end of the channel, said to the peer; None: the stream is known to be dead."""
        self._interruption = why or TetherError(UNREACHABLE, "The connection is gone.")
        if self._link is not None:
            self._link.cancel()

    def take(self, body: bytes) -> list[Numbered]:
        """Open a block. Whoever delivers its frames counts each in received. Raises the peer's fault or farewell."""
        block = unpack(body)
        if not isinstance(block, Block):
            raise TetherError(FRAME_INVALID, "A session is greeted once a stream.")
        self.heard = True
        if block.farewell is not None:
            self._dismissed = True
            raise dismissed_by(block.farewell)
        self.outbox.acknowledged(block.received)
        if self._probe is not None and block.received >= self._probe[0]:
            self._latency.measured(trio.current_time() - self._probe[1])
            self._probe = None
        if block.hurry:
            self._hurried = True
        if block.frames:
            self._unacked_bytes += len(body)
        return block.frames

    async def carry(
        self,
        stream: Stream,
        read: Callable[[], Awaitable[None]],
        *,
        greeting: bytes,
        peer_received: int,
    ) -> TetherError:
        """Write greeting, then pass frames both ways for as long as it goes well; the stream is closed afterwards.

        read: delivers what `take` returns, until the stream ends. peer_received: how many of this side's frames the
        peer has. Returns why it ended.
        """
        verdicts: list[TetherError] = []
        farewell: TetherError | None = TetherError(CALL_LOST, "The peer is shutting down.")
        self._mid_write = self._stopping = False
        self._refused = b""
        self._probe = None
        self._interruption = TetherError(UNREACHABLE, "The connection broke.")
        try:
            with trio.CancelScope() as self._link:
                async with trio.open_nursery() as nursery:

                    async def write() -> None:
                        with _kept_in(verdicts):
                            await self._write_all(stream, greeting, peer_received)
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(write)
                    with _kept_in(verdicts):
                        await read()
                    self._stop_writing(nursery.cancel_scope, at_once=not self._farewell(verdicts))
            farewell = self._farewell(verdicts)
            return verdicts[0] if verdicts else self._interruption
        finally:
            self._stream = self._link = None
            await hang_up(stream, None if self._mid_write else farewell, self._limits)

    # ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _write_all(self, stream: Stream, greeting: bytes, peer_received: int) -> None:
        self.outbox.acknowledged(peer_received)
        self.outbox.repeat()
        block = greeting + self._next_block()
        self._stream = stream
        while not self._stopping:
            if block:
                self._mid_write = True
                await stream.write(block)
                self._mid_write = False
                if self.room and not self.outbox.full:
                    self.room.unpark(count=HANDS)
            else:
                self.room.unpark_all()
                await self._writer.wait()
            block, self._refused = self._refused, b""
            block = block or self._next_block()

    def _next_block(self) -> bytes:
        """What to write next; empty: nothing to say."""
        frames = self.outbox.take()
        if not frames and not self._ack_is_due():
            return b""
        self._acked = self.received
        self._unacked_bytes = 0
        self._hurried = False
        return pack(Block(self.received, frames, bool(frames) and self._measuring()))

    def _measuring(self) -> bool:
        """Whether to ask for an acknowledgement at once: now and then, while the lane is in use."""
        now = trio.current_time()
        if now < self._next_probe:
            return False
        self._next_probe = now + self._limits.probe_s
        self._probe = (self.outbox.sent, now)
        return True

    def _ack_is_due(self) -> bool:
        return (
            self._hurried
            or self.received - self._acked >= self._limits.ack_frames
            or self._unacked_bytes >= self._limits.ack_bytes
        )

    # ── Parting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _farewell(self, verdicts: list[TetherError]) -> TetherError | None:
        """What to tell the peer: nothing if the stream is broken, or if it was the peer who ended the session."""
        verdict = verdicts[0] if verdicts else self._interruption
        return None if verdict.code is UNREACHABLE or self._dismissed else verdict

    def _stop_writing(self, scope: trio.CancelScope, *, at_once: bool) -> None:
        """A farewell needs the block that is being written whole before it, if the peer takes it at all."""
        self._stopping = True
        self._writer.ring()
        scope.deadline = -inf if at_once else trio.current_time() + self._limits.goodbye_s


@contextmanager
def _kept_in(verdicts: list[TetherError]) -> Iterator[None]:
    try:
        yield
    except TetherError as error:
        verdicts.append(error)


async def hang_up(stream: Stream, farewell: TetherError | None, limits: RpcLimits) -> None:
    """Close a stream for good; farewell tells the peer why, if it listens within goodbye_s."""
    with _briefly(limits.goodbye_s), suppress(TetherError):
        if farewell is not None:
            await stream.write(pack(Block(0, [], farewell=farewell.to_wire())))
            await stream.close()
            while await stream.read(READ_BYTES):
                pass  # a reset would overtake the farewell, so the peer hangs up first
    with _briefly(limits.goodbye_s), suppress(TetherError):
        await stream.reset()


def _briefly(seconds: float) -> trio.CancelScope:
    """Last words are said even by a task that is being cancelled."""
    return trio.CancelScope(deadline=trio.current_time() + seconds, shield=True)


def dismissed_by(error: WireError) -> TetherError:
    """The peer's farewell, with a code under which nobody tries to go on."""
    fault = TetherError.from_wire(error)
    return TetherError(CALL_LOST, fault.detail) if fault.code is UNREACHABLE else fault
