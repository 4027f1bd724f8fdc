"""The body of a streamed answer: events, and comments between them.

A writer sends what it writes and whatever is queued; while another one does, it only queues, and a task sends that.
So a comment never comes between the bytes of an event, and a client that reads slowly holds up its own writers and
nobody else. When nothing was said for KEEPALIVE_S, a comment is.
"""

from __future__ import annotations

from math import inf
from typing import Final

import trio
from starlette.types import Send

from p2p.rpc.bell import Bell
from tetherd.gateway.answer import Loading, Queued
from tetherd.http import responses

KEEPALIVE_S: Final = 10.0
"""Proxies cut what is silent for 30 to 60 seconds."""
MAX_QUEUED_BYTES: Final = 64 * 1024
"""Beyond that a writer waits for its client."""
_HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class EventStream:
    """open: whether the status has been decided, and the end has not been written."""

    def __init__(self, send: Send) -> None:
        self.open = False
        self._send = send
        self._queued = bytearray()
        self._head: dict[str, str] | None = None
        self._bell = Bell()
        self._turn = trio.Lock()
        self._room = trio.Event()
        self._last_s = trio.current_time()
        self._wait: Queued | Loading | None = None

    def told(self, wait: Queued | Loading) -> None:
        """What the request waits for: said as a comment, as soon as there is a status."""
        if wait != self._wait:
            self._wait = wait
            if self.open:
                self.put(responses.wait_comment(wait))

    def start(self, headers: dict[str, str], first: bytes = b"") -> None:
        """From now on the status is 200."""
        self._head = {**_HEADERS, **headers}
        self._queued += first
        self.open = True
        if self._wait is not None:
            self.put(responses.wait_comment(self._wait))
        self._bell.ring()

    def put(self, data: bytes) -> None:
        """Leaves with the next write, and by itself in the next turn of the loop."""
        self._queued += data
        self._bell.ring()

    async def write(self, data: bytes) -> None:
        """No checkpoint while there is room."""
        if not data:
            return
        if self._turn.locked() or not self.open:
            self.put(data)
            while len(self._queued) > MAX_QUEUED_BYTES:
                await self._room.wait()
        else:
            self._queued += data
            await self._flush(b"", more=True)

    async def run(self) -> None:
        """Send what is queued, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._last_s + KEEPALIVE_S) as silence:
                while True:
                    await self._bell.wait()
                    silence.deadline = inf
                    if self._queued or self._head is not None:
                        await self._flush(b"", more=True)
                    silence.deadline = self._last_s + KEEPALIVE_S
            if trio.current_time() >= self._last_s + KEEPALIVE_S:
                self._last_s = trio.current_time()
                self.put(responses.WAITING)

    async def end(self, data: bytes = b"") -> None:
        """The last bytes, with whatever is queued and the end; once it has ended that is no harm."""
        await self._flush(data, more=False)

    async def _flush(self, data: bytes, *, more: bool) -> None:
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            if not self.open:
                return
            if self._head is not None:
                raw = [(name.encode(), value.encode()) for name, value in self._head.items()]
                self._head = None
                await self._send({"type": "http.response.start", "status": 200, "headers": raw})
            body = bytes(self._queued) + data
            self._queued.clear()
            self.open = more
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            self._last_s = trio.current_time()
        finally:
            self._turn.release()
            self._room.set()
            self._room = trio.Event()
