"""libp2p's yamux with its defects mended: one writer, streams that wait for events, a peer that vanished is noticed.

- A frame is queued whole and one task writes, so a cancelled caller never leaves half a frame on the wire, and what
  was queued meanwhile goes out in one piece. The stock muxer writes in the caller, twice for each full frame.
- A writer waits for credit for as long as its reader takes; the stock stream resets itself after 5 s of polling.
- A peer that sends more than its window, or answers no ping, loses the connection.
"""

from __future__ import annotations

import struct
from typing import Final

import trio
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux import yamux

from p2p.host.errors import LIBP2P_FAULTS

YAMUX: Final = yamux.PROTOCOL_ID
FRAME_BYTES: Final = 65_507
"""With its header a frame fills exactly one Noise message; the stock 65,524 takes two."""
QUEUE_BYTES: Final = 1024 * 1024
"""What waits for the socket before writers wait too."""
CONTROL_BYTES: Final = 256 * 1024
"""On top of that, for what never waits (window updates, pings): more and the peer only asks and never reads."""
PING_S: Final = 15.0
PONG_S: Final = 15.0
"""Half a minute of silence is a dead peer, or one behind a cable that was pulled: TCP would wait for hours."""
FLUSH_S: Final = 0.5
"""For the last words of a connection that is being closed."""


class EagerStream(yamux.YamuxStream):
    """A stream that is woken by what it waits for."""

    def __init__(self, stream_id: int, conn: yamux.Yamux, is_initiator: bool) -> None:
        self.left: bytearray | None = None
        self._credit = trio.lowlevel.ParkingLot()
        super().__init__(stream_id, conn, is_initiator)

    def __setattr__(self, name: str, value: object) -> None:
        """The stock muxer sets these three from its read loop; they are events here."""
        super().__setattr__(name, value)
        if name in ("send_window", "closed"):
            self._credit.unpark_all()
        elif name == "recv_window" and isinstance(value, int) and value < 0:
            self.conn.event_shutting_down.set()

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            if self.reset_received:
                raise MuxedStreamReset("The stream was reset.")
            if self.send_closed or self.closed:
                raise MuxedStreamError("The stream is closed.")
            if self.send_window <= 0:
                await self._credit.park()
                continue
            part = rest[: min(self.send_window, FRAME_BYTES)]
            self.send_window -= len(part)
            await self.conn._write_frame(_header(yamux.TYPE_DATA, 0, self.stream_id, len(part)) + part)
            rest = rest[len(part) :]

    def write_now(self, data: bytes) -> bool:
        """Queue all of data if there is credit and room for it, and nothing is wrong."""
        whole = len(data) <= min(self.send_window, FRAME_BYTES)
        if not whole or self.reset_received or self.send_closed or self.closed:
            return False
        assert isinstance(self.conn, Muxer)
        if not self.conn.queue_now(_header(yamux.TYPE_DATA, 0, self.stream_id, len(data)) + data):
            return False
        self.send_window -= len(data)
        return True

    async def read(self, n: int | None = -1) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            buffer = self.conn.stream_buffers.get(self.stream_id, self.left)
            if buffer:
                data = bytes(buffer if n is None or n < 0 else buffer[:n])
                del buffer[: len(data)]
                await self._took(data)
                return data
            if self.reset_received:
                raise MuxedStreamReset("The stream was reset.")
            if buffer is None or self.recv_closed:
                raise MuxedStreamEOF("The peer closed the stream.")
            self.conn.stream_events[self.stream_id] = arrival = trio.Event()
            await arrival.wait()

    async def _took(self, data: bytes) -> None:
        """Return the credit. Shielded: bytes that have left the buffer must reach the caller; nothing here blocks."""
        with trio.CancelScope(shield=True):
            if self.closed:
                await self.conn._finalize_stream(self, fully_closed=True)
            await self._auto_tune_and_send_window_update(bytes_read=len(data))


yamux.YamuxStream = EagerStream  # type: ignore[misc]  # the muxer makes its streams by this name, in two places


class Muxer(yamux.Yamux):
    """The streams of one connection. `start` runs it and returns when the connection is gone."""

    def __init__(self, session: SecureSession, peer: ID, *, initiator: bool) -> None:
        super().__init__(session, peer, is_initiator=initiator)
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._filled = trio.lowlevel.ParkingLot()
        self._drained = trio.lowlevel.ParkingLot()

    async def open_eager(self) -> EagerStream:
        """open_stream, which waits without a word once 256 are open, and loses a place when it is cancelled."""
        if self.stream_backlog_semaphore.value == 0:
            raise MuxedStreamError("256 streams to this peer are open.")
        with trio.CancelScope(shield=True):
            stream = await self.open_stream()
        assert isinstance(stream, EagerStream)
        return stream

    async def accept_eager(self) -> EagerStream:
        """accept_stream, which says less of its type. Raises MuxedConnUnavailable once the connection is gone."""
        stream = await self.accept_stream()
        assert isinstance(stream, EagerStream)
        return stream

    async def close(self, error_code: int = yamux.GO_AWAY_NORMAL) -> None:
        """Write out what is queued, say goodbye, and let the peer close: who closes first resets what is on its way."""
        if not self.event_shutting_down.is_set():
            with trio.move_on_after(FLUSH_S):
                await self._write_frame(_header(yamux.TYPE_GO_AWAY, 0, 0, error_code))
                await self.event_shutting_down.wait()
        await self.abandon()

    async def abandon(self) -> None:
        """Close without a word, and wake everybody who reads or writes here."""
        with trio.CancelScope(shield=True):
            await self._cleanup_on_error()
        self._drained.unpark_all()

    async def _cleanup_on_error(self) -> None:
        """Leave to the streams what has arrived: a goodbye follows the last words at once."""
        for stream_id, stream in self.streams.items():
            assert isinstance(stream, EagerStream)
            stream.left = self.stream_buffers.get(stream_id)
        await super()._cleanup_on_error()

    async def _write_frame(self, data: bytes) -> None:
        data_frame = len(data) > yamux.HEADER_SIZE
        while data_frame and self._queued_bytes > QUEUE_BYTES and not self.event_shutting_down.is_set():
            await self._drained.park()
        if self.event_shutting_down.is_set():
            raise RawConnError("The connection is closed.")
        self._queue.append(data)
        self._queued_bytes += len(data)
        self._filled.unpark_all()
        if self._queued_bytes > QUEUE_BYTES + FRAME_BYTES + CONTROL_BYTES:
            self._break()

    def queue_now(self, data: bytes) -> bool:
        """Queue a frame unless it would have to wait."""
        if self._queued_bytes > QUEUE_BYTES or self.event_shutting_down.is_set():
            return False
        self._queue.append(data)
        self._queued_bytes += len(data)
        self._filled.unpark_all()
        return True

    async def _handle_incoming_with_ready_signal(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._write_queue)
        await super()._handle_incoming_with_ready_signal(task_status=task_status)

    async def _write_queue(self) -> None:
        while True:
            while not self._queue:
                await self._filled.park()
            data = b"".join(self._queue)
            self._queue.clear()
            self._queued_bytes = 0
            try:
                await self.secured_conn.write(data)
            except LIBP2P_FAULTS:
                self._break()
            self._drained.unpark_all()

    async def _measure_rtt_loop(self) -> None:
        """The stock loop measures, and does not mind a ping that is never answered."""
        while True:
            await trio.sleep(PING_S)
            self._ping_id += 1
            self._ping_event = trio.Event()
            self._ping_sent_time = trio.current_time()
            try:
                await self._write_frame(
                    _header(yamux.TYPE_PING, yamux.FLAG_SYN, 0, self._ping_id & 0xFFFFFFFF)
                )
            except RawConnError:
                return
            with trio.move_on_after(PONG_S) as patience:
                await self._ping_event.wait()
            if patience.cancelled_caught:
                self._break()

    def _break(self) -> None:
        """End `start`; who runs it closes the socket and wakes the streams."""
        self.event_shutting_down.set()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()


def _header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    return struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, kind, flags, stream_id, length)
