"""Numbered frames in order, exactly once, over as many streams as it takes.

    send ──> queue by priority ──> written and kept ──> acknowledged, forgotten
                                        └── the stream broke: sent again on the next, from where the peer stands

What breaks a stream and what ends the channel are told apart by the code that `carry` returns: UNREACHABLE is a
broken stream, after which another may go on; anything else is the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Final

import trio

from p2p.errors import CALL_LOST, FLOW_VIOLATION, FRAME_INVALID, UNREACHABLE, TetherError, WireError
from p2p.frames import READ_BYTES, FrameReader
from p2p.rpc.frames import Ack, Goodbye, Hello, Numbered, Welcome, pack, unpack
from p2p.rpc.limits import RpcLimits
from p2p.transport import Stream

PRIORITIES: Final = 3


class Queued:
    """A frame on its way to the writer; until that has taken it, it may be withdrawn."""

    __slots__ = ("data", "state")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.state = "waiting"

    @property
    def taken(self) -> bool:
        return self.state == "taken"


class Channel:
    """One direction each way. deliver: called in the reader for each numbered frame, once; it never blocks and may
    raise TetherError for a fault of the peer's."""

    def __init__(self, limits: RpcLimits, deliver: Callable[[Numbered], None]) -> None:
        self.received = 0
        self.welcomed = False
        self.backlog_bytes = 0
        self._limits = limits
        self._deliver = deliver
        self._queues: tuple[deque[Queued], ...] = tuple(deque() for _ in range(PRIORITIES))
        self._kept: deque[bytes] = deque()
        self._kept_from = 0
        self._again: deque[bytes] = deque()
        self._acked = 0
        self._unacked_bytes = 0
        self._wake = trio.Event()
        self._link: trio.CancelScope | None = None
        self._mid_write = False
        self._stopping = False
        self._dismissed = False
        self._interruption = TetherError(UNREACHABLE, "The connection broke.")

    @property
    def carried(self) -> bool:
        """Whether a stream carries this channel now."""
        return self._link is not None

    def send(self, frame: Numbered, priority: int) -> Queued:
        """Queue a frame behind those of its priority; 0 goes first."""
        queued = Queued(pack(frame))
        self._queues[priority].append(queued)
        self.backlog_bytes += len(queued.data)
        self._wake.set()
        return queued

    def withdraw(self, queued: Queued) -> bool:
        """Take a frame back. False: too late, the peer may have it."""
        if queued.state == "waiting":
            queued.state = "withdrawn"
            self.backlog_bytes -= len(queued.data)
        return queued.state == "withdrawn"

    def interrupt(self, why: TetherError | None = None) -> None:
        """Let `carry` return. why: the end of the channel, said to the peer; None: the stream is known to be dead."""
        self._interruption = why or TetherError(UNREACHABLE, "The connection is gone.")
        if self._link is not None:
            self._link.cancel()

    async def carry(
        self, stream: Stream, reader: FrameReader, *, greeting: bytes, peer_received: int
    ) -> TetherError:
        """Write greeting, then pass frames both ways for as long as it goes well; the stream is closed afterwards.

        peer_received: how many of this side's frames the peer has. Returns why it ended.
        """
        verdicts: list[TetherError] = []
        farewell: TetherError | None = TetherError(CALL_LOST, "The peer is shutting down.")
        self._mid_write = self._stopping = False
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
                        await self._read_all(reader)
                    self._stop_writing(nursery.cancel_scope, at_once=not self._farewell(verdicts))
            farewell = self._farewell(verdicts)
            return verdicts[0] if verdicts else self._interruption
        finally:
            self._link = None
            await hang_up(stream, None if self._mid_write else farewell, self._limits)

    def _farewell(self, verdicts: list[TetherError]) -> TetherError | None:
        """What to tell the peer: nothing if the stream is broken, or if it was the peer who ended the session."""
        verdict = verdicts[0] if verdicts else self._interruption
        return None if verdict.code is UNREACHABLE or self._dismissed else verdict

    def _stop_writing(self, scope: trio.CancelScope, *, at_once: bool) -> None:
        """A farewell needs the frame that is being written whole before it, if the peer takes it at all."""
        self._stopping = True
        self._wake.set()
        scope.deadline = -inf if at_once else trio.current_time() + self._limits.goodbye_s

    async def _write_all(self, stream: Stream, greeting: bytes, peer_received: int) -> None:
        self._acknowledged(peer_received)
        self._again = deque(self._kept)
        batch = [greeting, *self._batch()]
        while not self._stopping:
            if batch:
                self._mid_write = True
                await stream.write(b"".join(batch))
                self._mid_write = False
            else:
                self._wake = trio.Event()
                await self._wake.wait()
            batch = self._batch()

    def _batch(self) -> list[bytes]:
        """What to write next: first what an earlier stream lost, then by priority. Empty: nothing to do."""
        if self.backlog_bytes > self._limits.backlog_bytes:
            raise TetherError(FLOW_VIOLATION, "The peer acknowledges nothing.")
        batch: list[bytes] = []
        size = 0
        while self._again and size < self._limits.batch_bytes:
            batch.append(self._again.popleft())
            size += len(batch[-1])
        for queue in self._queues:
            while queue and size < self._limits.batch_bytes:
                queued = queue.popleft()
                if queued.state == "waiting":
                    queued.state = "taken"
                    self._kept.append(queued.data)
                    batch.append(queued.data)
                    size += len(queued.data)
        if self.received > self._acked and (batch or self._ack_is_due()):
            batch.insert(0, pack(Ack(self.received)))
            self._acked = self.received
            self._unacked_bytes = 0
        return batch

    async def _read_all(self, reader: FrameReader) -> None:
        while bodies := await reader.some():
            for body in bodies:
                match unpack(body):
                    case Ack(received=received):
                        self._acknowledged(received)
                    case Welcome():
                        self.welcomed = True
                    case Goodbye(error=error):
                        self._dismissed = True
                        raise dismissed_by(error)
                    case Hello():
                        raise TetherError(FRAME_INVALID, "A session is greeted once a stream.")
                    case numbered:
                        self.received += 1
                        self._unacked_bytes += len(body)
                        self._deliver(numbered)
            if self._ack_is_due():
                self._wake.set()

    def _ack_is_due(self) -> bool:
        frames = self.received - self._acked
        return frames >= self._limits.ack_frames or self._unacked_bytes >= self._limits.ack_bytes

    def _acknowledged(self, received: int) -> None:
        if not self._kept_from <= received <= self._kept_from + len(self._kept):
            raise TetherError(FRAME_INVALID, "The peer acknowledges frames that it cannot have.")
        while self._kept_from < received:
            self.backlog_bytes -= len(self._kept.popleft())
            self._kept_from += 1


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
            await stream.write(pack(Goodbye(farewell.to_wire())))
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
