"""What this node gives to others: the files that it has, and the chunks of those that it is still fetching."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog
import trio

from inference.artifacts.chunks import DIGEST_BYTES, Blob
from inference.artifacts.metrics import ShelfMetrics
from inference.artifacts.rate import Rate
from inference.artifacts.wire import BLOB_PROTOCOL, HEAD, HOLDING, WANT, Holding, HoldingRequest
from p2p.errors import NOT_HELD, TetherError
from p2p.rpc import Rpc, ServerCall
from p2p.transport import ARTIFACTS, Stream, Transport

READ_BYTES: Final = 1 << 20
"""Read from the disk and handed to the connection at a time; what this node holds in memory for each borrower."""
BORROWERS: Final = 64
"""Streams at a time; more are told that nothing is held, and ask elsewhere."""
GATHER_S: Final = 0.1
"""News of chunks that came are told together, at most so often."""
PATIENCE_S: Final = 60.0
"""For a borrower to say what it wants next."""

_log = structlog.get_logger()


class Lent(Protocol):
    """A file, or as much of it as there is. changed: set, and replaced, when there is more."""

    @property
    def blob(self) -> Blob: ...

    @property
    def path(self) -> Path: ...

    @property
    def changed(self) -> trio.Event: ...

    @property
    def done(self) -> frozenset[int] | None:
        """The chunks that there are; None: all."""
        ...

    @property
    def coming(self) -> frozenset[int]:
        """The chunks that this node has asked others for."""
        ...


@dataclass(frozen=True, slots=True)
class _Source:
    """An open file, which stays what it is when its name goes."""

    lent: Lent
    descriptor: int

    def has(self, index: int) -> bool:
        done = self.lent.done
        return index < self.lent.blob.count and (done is None or index in done)


class Lender:
    """find: what this node has of a file by its SHA-256. rate: shared by all borrowers."""

    def __init__(
        self,
        rpc: Rpc,
        transport: Transport,
        find: Callable[[str], Lent | None],
        rate: Rate,
        metrics: ShelfMetrics,
    ) -> None:
        self._find = find
        self._rate = rate
        self._metrics = metrics
        self._borrowers = trio.CapacityLimiter(BORROWERS)
        self.lent_bytes = 0
        rpc.serve_stream(HOLDING, self._holding)
        transport.handle(BLOB_PROTOCOL, self._lend)

    async def _holding(self, call: ServerCall[HoldingRequest, Holding]) -> None:
        told, promised = set[int](), set[int]()
        while True:
            lent = self._find(call.request.sha256)
            if lent is None:
                raise TetherError(NOT_HELD, "This node has nothing of that file.")
            done, changed = lent.done, lent.changed
            if done is None:
                await call.send(Holding(whole=True))
                return
            fresh, coming = done - told, lent.coming - promised
            if fresh or coming or not told:
                await call.send(Holding(chunks=tuple(sorted(fresh)), coming=tuple(sorted(coming))))
                told |= fresh
                promised |= coming
            await changed.wait()
            await trio.sleep(GATHER_S)

    async def _lend(self, stream: Stream) -> None:
        stream.priority = ARTIFACTS
        inbox = _Inbox(stream)
        asked = await inbox.take(DIGEST_BYTES)
        lent = self._find(asked.hex()) if asked else None
        source = _open(lent) if lent is not None and self._borrowers.available_tokens else None
        if source is None:
            await stream.write(HEAD.pack(0, 0))
            return
        try:
            async with self._borrowers:
                while wanted := await inbox.take(WANT.size):
                    await self._send(stream, source, WANT.unpack(wanted)[0])
        finally:
            os.close(source.descriptor)

    async def _send(self, stream: Stream, source: _Source, index: int) -> None:
        if not source.has(index):
            await stream.write(HEAD.pack(index, 0))
            return
        blob = source.lent.blob
        begin, length = blob.offset(index), blob.length(index)
        await stream.write(HEAD.pack(index, length))
        for at in range(begin, begin + length, READ_BYTES):
            count = min(READ_BYTES, begin + length - at)
            await self._rate.spend(count)
            data = await trio.to_thread.run_sync(os.pread, source.descriptor, count, at)
            if len(data) != count:
                _log.warning("blob_cut_short", sha256=blob.sha256[:12], path=str(source.lent.path))
                await stream.reset()
                return
            await stream.write(data)
            self.lent_bytes += count
            self._metrics.lent(count)


def _open(lent: Lent) -> _Source | None:
    try:
        return _Source(lent, os.open(lent.path, os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:  # evicted, or renamed to its place, a moment ago
        return None


class _Inbox:
    """Fixed-size messages out of a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def take(self, size: int) -> bytes:
        """Exactly size bytes, or b"" at the end, or when nothing comes."""
        with trio.move_on_after(PATIENCE_S):
            while len(self._buffer) < size:
                data = await self._stream.read(4096)
                if not data:
                    return b""
                self._buffer += data
            taken = bytes(self._buffer[:size])
            del self._buffer[:size]
            return taken
        return b""
