"""What waits for one peer: a slow one loses old messages, and holds up nobody else."""

from __future__ import annotations

from collections import deque
from typing import Final

import trio
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue

from p2p.host.framing import framed

MAX_CONTROL: Final = 512
"""Grafts, prunes, subscriptions, lists of ids; they go before messages."""
MAX_OUTBOX_BYTES: Final = 1 << 20
"""All messages that wait for one peer, over all topics."""
WRITE_BYTES: Final = 65_507
"""What is handed over at once: one Noise message."""


class Outbox(RpcQueue):
    """Frames in the order of their coming. It is the stock queue as far as libp2p's Pubsub uses that."""

    def __init__(self) -> None:
        super().__init__()
        self._control: deque[bytes] = deque(maxlen=MAX_CONTROL)
        self._frames: dict[int, tuple[str, bytes]] = {}
        self._by_topic: dict[str, deque[int]] = {}
        self._next = 0
        self._bytes = 0
        self._news = trio.Event()

    def __len__(self) -> int:
        return len(self._control) + len(self._frames)

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        """Control, whatever its priority: messages come by `put`."""
        self._control.append(framed(rpc.SerializeToString()))
        self._news.set()
        return True

    def put(self, topic: str, frame: bytes, backlog: int) -> None:
        """A message's frame. backlog: how many of its topic may wait; the oldest of them goes first."""
        if (waiting := self._by_topic.get(topic)) and len(waiting) >= backlog:
            self._drop(waiting[0])
        self._frames[self._next] = (topic, frame)
        self._by_topic.setdefault(topic, deque()).append(self._next)
        self._next += 1
        self._bytes += len(frame)
        while self._bytes > MAX_OUTBOX_BYTES:
            self._drop(next(iter(self._frames)))
        self._news.set()

    async def next(self) -> bytes:
        """Some frames, as soon as there are any; b"" once closed."""
        while not (self._control or self._frames or self.closed):
            self._news = trio.Event()
            await self._news.wait()
        return b"" if self.closed else self._taken()

    def close(self) -> None:
        super().close()
        self._news.set()

    def _taken(self) -> bytes:
        parts, size = [], 0
        while self._control and size < WRITE_BYTES:
            parts.append(self._control.popleft())
            size += len(parts[-1])
        while self._frames and size < WRITE_BYTES:
            parts.append(self._drop(next(iter(self._frames))))
            size += len(parts[-1])
        return b"".join(parts)

    def _drop(self, number: int) -> bytes:
        """Take out the oldest frame of its topic."""
        topic, frame = self._frames.pop(number)
        waiting = self._by_topic[topic]
        waiting.popleft()
        if not waiting:
            del self._by_topic[topic]
        self._bytes -= len(frame)
        return frame
