"""One file from many sources at once: whoever has a chunk is asked for it, and what comes is verified before it counts.

    find ──> a peer ──HOLDING──> the planner ──next──> BLOB ──> verified in a thread, on the disk ──> the planner
    origins ───────────────────────┘                  range requests ─┘

The planner (planner.py) decides; here are the tasks, the deadlines and the memory, which is bounded by the chunks under
way: IN_FLIGHT_BYTES together, however many sources there are.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import structlog
import trio

from inference.artifacts.blobs import Partial
from inference.artifacts.chunks import Blob
from inference.artifacts.metrics import Kind, ShelfMetrics
from inference.artifacts.planner import PIPELINE, Planner
from inference.artifacts.rate import Rate
from inference.artifacts.wire import BLOB_PROTOCOL, HEAD, HOLDING, WANT, HoldingRequest
from p2p.errors import DIGEST_MISMATCH, NO_SOURCE, NOT_HELD, UNREACHABLE, TetherError
from p2p.identity import PeerId
from p2p.rpc import Rpc
from p2p.transport import ARTIFACTS, Stream, Transport

IN_FLIGHT_BYTES: Final = 64 << 20
"""Of chunks that are arriving or being verified: what a fetch may take of the memory, besides one chunk a source."""
READ_BYTES: Final = 1 << 20
STALL_S: Final = 15.0
"""A source that sends nothing for so long is slow or gone."""
SLOWEST_BYTES_PER_S: Final = 16 * 1024
LATE_S: Final = 1.0
"""How often a source without work is considered for what others are late with."""
LOOK_S: Final = 5.0
"""How often the DHT is asked for more sources."""
PATIENCE_S: Final = 120.0
"""How long a fetch goes on without any source, before it says that there is none."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Progress:
    """done never shrinks within a fetch. rate: bytes a second lately; sources: that give now."""

    done: int
    size: int
    rate: float
    sources: int


class Origin(Protocol):
    """A place outside the swarm that has the whole file: an HTTP server, a hub, an S3 bucket."""

    @property
    def name(self) -> str: ...

    async def read(self, offset: int, length: int) -> bytes:
        """Exactly so many bytes. Raises TetherError: it is asked again after a pause if that is retryable."""
        ...


@dataclass(slots=True)
class Tally:
    """What came from whom. liars: who sent what was not signed."""

    received: dict[str, int] = field(default_factory=dict)
    liars: list[str] = field(default_factory=list)


class Fetch:
    """One file on its way. find: those who may have it; told: called after each chunk, from the event loop."""

    def __init__(
        self,
        partial: Partial,
        rpc: Rpc,
        transport: Transport,
        find: Callable[[], Awaitable[Sequence[PeerId]]],
        *,
        origins: Sequence[Origin] = (),
        rate: Rate,
        metrics: ShelfMetrics,
        told: Callable[[Progress], None] = lambda _: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.partial = partial
        self.tally = Tally()
        self.changed = trio.Event()
        self._rpc = rpc
        self._transport = transport
        self._find = find
        self._origins = origins
        self._rate = rate
        self._metrics = metrics
        self._told = told
        self._planner = Planner(self.blob.count, partial.done, draw)
        self._following: set[PeerId] = set()
        self._room = _Room(max(2, IN_FLIGHT_BYTES // self.blob.chunk_bytes))
        self._patience = trio.CancelScope(deadline=trio.current_time() + PATIENCE_S)
        self._done_bytes = sum(map(self.blob.length, partial.done))
        self._speed = Speed()
        self._over = trio.Event()
        self._failure: TetherError | None = None

    @property
    def blob(self) -> Blob:
        return self.partial.blob

    @property
    def path(self) -> Path:
        return self.partial.path

    @property
    def done(self) -> frozenset[int]:
        return frozenset(self.partial.done)

    @property
    def coming(self) -> frozenset[int]:
        return self._planner.asked()

    @property
    def progress(self) -> Progress:
        rate = self._speed.bytes_per_s(trio.current_time())
        return Progress(self._done_bytes, self.blob.size, rate, len(self.tally.received))

    async def run(self) -> Path:
        """Fetch the rest. Raises TetherError(NO_SOURCE | DISK_FULL); what has come stays for the next try."""
        if not self._planner.complete:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look, nursery)
                nursery.start_soon(self._despair)
                for origin in self._origins:
                    nursery.start_soon(self._draw_from, origin)
                await self._over.wait()
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        return await trio.to_thread.run_sync(self.partial.finish)

    # ── Peers ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _look(self, nursery: trio.Nursery) -> None:
        while True:
            for peer in await self._find():
                known = peer in self._following or peer == self._transport.peer_id
                if not known and peer not in self.tally.liars:
                    self._following.add(peer)
                    nursery.start_soon(self._follow, peer)
            await trio.sleep(LOOK_S)

    async def _follow(self, peer: PeerId) -> None:
        """Hear what a peer has, and ask it for that, for as long as it answers."""
        self._planner.join(peer, whole=False)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, peer)
                nursery.start_soon(self._borrow, peer)
        except* TetherError as group:
            _log.info("source_lost", peer=peer, cause=str(group.exceptions[0])[:200])
        finally:
            self._planner.leave(peer)
            self._room.vacate(peer)
            self._following.discard(peer)
            self._wake()

    async def _hear(self, peer: PeerId) -> None:
        async with self._rpc.stream(peer, HOLDING, HoldingRequest(self.blob.sha256)) as told:
            async for holding in told:
                self._planner.has(peer, range(self.blob.count) if holding.whole else holding.chunks)
                self._planner.coming(peer, holding.coming)
                self._wake()

    async def _borrow(self, peer: PeerId) -> None:
        """Ask over one stream, a few chunks ahead. Raises TetherError when the peer is gone or lies."""
        stream = await self._transport.open_stream(peer, BLOB_PROTOCOL, priority=ARTIFACTS)
        asked, order = trio.open_memory_channel[int](PIPELINE)
        try:
            await stream.write(bytes.fromhex(self.blob.sha256))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._want, peer, stream, asked)
                async for index in order:
                    await self._receive(peer, stream, index, nursery)
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()

    async def _want(self, peer: PeerId, stream: Stream, asked: trio.MemorySendChannel[int]) -> None:
        while True:
            index = await self._next(peer)
            await stream.write(WANT.pack(index))
            await asked.send(index)

    async def _receive(self, peer: PeerId, stream: Stream, index: int, nursery: trio.Nursery) -> None:
        head = await self._read(stream, HEAD.size)
        told, length = HEAD.unpack(head)
        if length == 0:
            raise TetherError(NOT_HELD, f"{peer} has chunk {index} no more.")
        if (told, length) != (index, self.blob.length(index)):
            self._condemn(peer)
            raise TetherError(DIGEST_MISMATCH, f"{peer} sends another chunk than was asked for.")
        data = await self._read(stream, length)
        nursery.start_soon(self._take, peer, index, data)

    async def _read(self, stream: Stream, size: int) -> bytearray:
        """Exactly size bytes, which do not come slower than SLOWEST_BYTES_PER_S. Raises TetherError(UNREACHABLE)."""
        buffer, at = bytearray(size), 0
        with trio.move_on_after(STALL_S + size / SLOWEST_BYTES_PER_S) as crawl:
            while at < size:
                with trio.move_on_after(STALL_S) as stall:
                    data = await stream.read(min(READ_BYTES, size - at))
                if stall.cancelled_caught or not data:
                    raise TetherError(UNREACHABLE, "The source sends nothing more.")
                buffer[at : at + len(data)] = data
                at += len(data)
                await self._rate.spend(len(data))
        if crawl.cancelled_caught:
            raise TetherError(UNREACHABLE, "The source is too slow.")
        return buffer

    # ── Origins ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _draw_from(self, origin: Origin) -> None:
        self._planner.join(origin.name, whole=True)
        self._wake()
        while True:
            index = await self._next(origin.name)
            try:
                data = await origin.read(self.blob.offset(index), self.blob.length(index))
            except TetherError as error:
                _log.info("origin_failed", origin=origin.name, cause=str(error)[:200])
                if not error.code.retryable:
                    self._planner.leave(origin.name)
                    self._room.vacate(origin.name)
                    self._wake()
                    return
                self._planner.failed(origin.name, index, trio.current_time())
                self._room.leave(origin.name, index)
                continue
            await self._rate.spend(len(data))
            try:
                await self._take(origin.name, index, data)
            except TetherError:
                return  # It lied, and is asked for nothing more; or the disk is full, and the fetch is over.

    # ── What comes ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _next(self, source: str) -> int:
        """Wait for the next chunk to ask source for, and for room for it in the memory."""
        while True:
            changed = self.changed
            index = self._planner.next(source, trio.current_time())
            if index is not None:
                self._wake()
                await self._room.enter(source, index)
                return index
            with trio.move_on_after(self._planner.rests_for(source, trio.current_time()) or LATE_S):
                await changed.wait()

    async def _take(self, source: str, index: int, data: bytes | bytearray) -> None:
        try:
            if index not in self.partial.done:
                await trio.to_thread.run_sync(self.partial.write, index, data)
        except TetherError as error:
            if error.code is DIGEST_MISMATCH:
                self._condemn(source)
            else:
                self._fail(error)
            raise
        finally:
            self._room.leave(source, index)
        now = trio.current_time()
        if self._planner.arrived(source, index, now):
            self._patience.deadline = now + PATIENCE_S
            self._done_bytes += len(data)
            self._speed.add(len(data), now)
            self._metrics.fetched(self._kind(source), len(data))
            self.tally.received[source] = self.tally.received.get(source, 0) + len(data)
            self._told(self.progress)
        self._wake()
        if self._planner.complete:
            self._over.set()

    def _condemn(self, source: str) -> None:
        if source not in self.tally.liars:
            self.tally.liars.append(source)
        self._planner.ban(source)
        self._metrics.lied(self._kind(source))
        _log.warning("source_lied", source=source, sha256=self.blob.sha256[:12])

    def _kind(self, source: str) -> Kind:
        return "origin" if any(source == origin.name for origin in self._origins) else "peer"

    async def _despair(self) -> None:
        with self._patience:
            await trio.sleep_forever()
        detail = f"{self._planner.left} of {self.blob.count} chunks of {self.blob.sha256[:12]} are missing."
        self._fail(TetherError(NO_SOURCE, detail))

    def _fail(self, failure: TetherError) -> None:
        self._failure = failure
        self._over.set()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class _Room:
    """How many chunks may be under way, so that their bytes fit; each source has a place in any case."""

    def __init__(self, chunks: int) -> None:
        self._limit = trio.CapacityLimiter(chunks)
        self._held: set[tuple[str, int]] = set()

    async def enter(self, source: str, index: int) -> None:
        if any(name == source for name, _ in self._held):
            await self._limit.acquire_on_behalf_of((source, index))
        self._held.add((source, index))

    def leave(self, source: str, index: int) -> None:
        self._held.discard((source, index))
        with suppress(RuntimeError):  # it had its source's own place
            self._limit.release_on_behalf_of((source, index))

    def vacate(self, source: str) -> None:
        for name, index in tuple(self._held):
            if name == source:
                self.leave(name, index)


class Speed:
    """Bytes a second over the last SPAN_S."""

    SPAN_S: Final = 5.0

    def __init__(self) -> None:
        self._came: deque[tuple[float, int]] = deque()

    def add(self, count: int, now_s: float) -> None:
        self._came.append((now_s, count))

    def bytes_per_s(self, now_s: float) -> float:
        while self._came and self._came[0][0] < now_s - self.SPAN_S:
            self._came.popleft()
        return sum(count for _, count in self._came) / self.SPAN_S
