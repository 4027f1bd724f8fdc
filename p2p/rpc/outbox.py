"""What one side of a session still has to say, and what it has said without an acknowledgement. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from p2p.errors import FLOW_VIOLATION, FRAME_INVALID, TetherError
from p2p.rpc.frames import MAX_FRAMES, Numbered, Open
from p2p.rpc.limits import RpcLimits

FRAME_BYTES: Final = 32
"""What a frame takes beside its message."""


class Pour(Protocol):
    """A message that goes out part by part, one in each block and in turn with others."""

    def next_part(self) -> tuple[Numbered, int] | None:
        """A frame and the bytes in it; None: that is all there is for now."""
        ...


class Outbox:
    """queued: whether there is anything to write; sent: frames written so far, in all; backlog_bytes: not yet
    acknowledged, written or not."""

    def __init__(self, limits: RpcLimits) -> None:
        self.sent = 0
        self.backlog_bytes = 0
        self._limits = limits
        self._queue: list[Numbered] = []
        self._sizes: list[int] = []
        self._queued_bytes = 0
        self._pours: deque[Pour] = deque()
        self._kept: deque[tuple[int, list[Numbered], int]] = deque()
        self._acknowledged = 0
        self._again: deque[list[Numbered]] = deque()

    @property
    def queued(self) -> bool:
        return bool(self._queue or self._pours or self._again)

    @property
    def full(self) -> bool:
        """Whether senders of messages have to wait for room."""
        return self._queued_bytes >= self._limits.batch_bytes

    @property
    def fits_one_block(self) -> bool:
        """Whether `take` would return all there is."""
        return not self._again and not self._pours and not self.full and len(self._queue) <= MAX_FRAMES

    def put(self, frame: Numbered, size: int) -> None:
        """size: bytes of the message in it."""
        size += FRAME_BYTES
        self._queue.append(frame)
        self._sizes.append(size)
        self._queued_bytes += size
        self.backlog_bytes += size

    def pour(self, pour: Pour) -> None:
        if pour not in self._pours:
            self._pours.append(pour)

    def stop(self, pour: Pour) -> None:
        if pour in self._pours:
            self._pours.remove(pour)

    def take(self) -> list[Numbered]:
        """The next block's frames: first what an earlier stream lost. Raises TetherError(FLOW_VIOLATION)."""
        if self._again:
            return self._again.popleft()
        if self.backlog_bytes > self._limits.backlog_bytes:
            raise TetherError(FLOW_VIOLATION, "The peer acknowledges nothing.")
        frames, size = self._batch()
        while self._pours:
            pour = self._pours.popleft()
            if (part := pour.next_part()) is not None:
                frames.append(part[0])
                size += part[1] + FRAME_BYTES
                self.backlog_bytes += part[1] + FRAME_BYTES
                self._pours.append(pour)
                break
        if frames:
            self.sent += len(frames)
            self._kept.append((self.sent, frames, size))
        return frames

    def acknowledged(self, received: int) -> None:
        """The peer has so many frames. Raises TetherError(FRAME_INVALID) if it cannot."""
        if not self._acknowledged <= received <= self.sent:
            raise TetherError(FRAME_INVALID, "The peer acknowledges frames that it cannot have.")
        self._acknowledged = received
        while self._kept and self._kept[0][0] <= received:
            self.backlog_bytes -= self._kept.popleft()[2]

    def repeat(self) -> None:
        """Begin again on a new stream with the first frame that the peer does not have."""
        self._again.clear()
        for end, frames, _ in self._kept:
            self._again.append(frames[max(0, self._acknowledged - end + len(frames)) :])

    def withdraw(self, call: int) -> bool:
        """Take a call's OPEN back. False: too late, the peer may have it."""
        for place, frame in enumerate(self._queue):
            if isinstance(frame, Open) and frame.call == call:
                size = self._sizes.pop(place)
                del self._queue[place]
                self._queued_bytes -= size
                self.backlog_bytes -= size
                return True
        return False

    def _batch(self) -> tuple[list[Numbered], int]:
        """What is queued, up to a batch and the frame that makes it full."""
        limit = self._limits.batch_bytes
        if self._queued_bytes < limit and len(self._queue) < MAX_FRAMES:
            frames, size = self._queue, self._queued_bytes
            self._queue, self._sizes, self._queued_bytes = [], [], 0
            return frames, size
        count = size = 0
        while count < min(len(self._queue), MAX_FRAMES - 1) and size < limit:
            size += self._sizes[count]
            count += 1
        frames = self._queue[:count]
        del self._queue[:count], self._sizes[:count]
        self._queued_bytes -= size
        return frames, size
