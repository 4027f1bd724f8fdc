"""The files of one node: had, wanted and lent. Whoever wants a file that is on its way waits for the same fetch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import trio

from inference.artifacts.blobs import Blobs
from inference.artifacts.chunks import Blob
from inference.artifacts.fetching import Fetch, Origin, Progress
from inference.artifacts.lending import Lender, Lent
from inference.artifacts.metrics import NoMetrics, ShelfMetrics
from inference.artifacts.rate import Rate
from inference.artifacts.wire import blob_key
from p2p.errors import TetherError
from p2p.identity import PeerId
from p2p.membership import SwarmId
from p2p.rpc import Rpc
from p2p.transport import Network, PeerAddress

ANNOUNCE_S: Final = 600.0
"""How often the DHT is told again of what is here."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Whole:
    """A file that is all here. Nothing of it changes any more."""

    blob: Blob
    path: Path
    changed: trio.Event
    done: None = None
    coming: frozenset[int] = frozenset()


class Shelf:
    """`run` lends and tells where; `want` fetches."""

    def __init__(
        self,
        blobs: Blobs,
        rpc: Rpc,
        network: Network,
        swarm_id: SwarmId,
        *,
        down: Rate,
        up: Rate,
        metrics: ShelfMetrics = NoMetrics(),  # noqa: B008 it keeps nothing
    ) -> None:
        self.blobs = blobs
        self._rpc = rpc
        self._network = network
        self._swarm_id = swarm_id
        self._down = down
        self._metrics = metrics
        self._known: dict[str, Blob] = {}
        self._fetches: dict[str, Fetch] = {}
        self._ended: dict[str, trio.Event] = {}
        self._news = trio.Event()
        self.lender = Lender(rpc, network, self.find, up, metrics)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep telling the DHT what is here, until cancelled."""
        task_status.started()
        while True:
            news = self._news
            for sha256 in [*self._fetches, *self._known]:
                await self._announce(sha256)
            with trio.move_on_after(ANNOUNCE_S):
                await news.wait()

    def know(self, blob: Blob) -> None:
        """What a file consists of: it can be lent from now on, if it is here."""
        self._known[blob.sha256] = blob
        self._tell()

    def find(self, sha256: str) -> Lent | None:
        """What there is of a file."""
        blob, path = self._known.get(sha256), self.blobs.path(sha256)
        if blob is not None and path is not None:
            return _Whole(blob, path, trio.Event())
        return self._fetches.get(sha256)

    def fetches(self) -> dict[str, Progress]:
        """What is on its way, by SHA-256."""
        return {sha256: fetch.progress for sha256, fetch in self._fetches.items()}

    def under_way(self) -> list[Fetch]:
        return list(self._fetches.values())

    async def want(
        self,
        blob: Blob,
        *,
        origins: Sequence[Origin] = (),
        told: Callable[[Progress], None] = lambda _: None,
    ) -> Path:
        """The file's path, once it is here and verified. Raises TetherError(NO_SOURCE | DISK_FULL)."""
        while True:
            path = self.blobs.use(blob.sha256)
            if path is not None:
                self.know(blob)
                await trio.lowlevel.checkpoint()
                return path
            if blob.sha256 in self._ended:
                await self._watch(blob.sha256, told)
                continue
            async with self._fetching(blob, origins, told) as fetch:
                path = await fetch.run()
            self.know(blob)
            return path

    @asynccontextmanager
    async def _fetching(
        self, blob: Blob, origins: Sequence[Origin], told: Callable[[Progress], None]
    ) -> AsyncIterator[Fetch]:
        busy = {*self._fetches, blob.sha256}
        ended = self._ended[blob.sha256] = trio.Event()

        async def find() -> Sequence[PeerId]:
            return await self.holders(blob.sha256)

        try:
            partial = await trio.to_thread.run_sync(self.blobs.begin, blob, busy)
            fetch = Fetch(
                partial,
                self._rpc,
                self._network,
                find,
                origins=origins,
                rate=self._down,
                metrics=self._metrics,
                told=told,
            )
            self._fetches[blob.sha256] = fetch
            self._tell()
            try:
                yield fetch
            finally:
                del self._fetches[blob.sha256]
                partial.close()
                for liar in fetch.tally.liars:
                    _log.warning("source_named", source=liar, sha256=blob.sha256[:12])
        finally:
            del self._ended[blob.sha256]
            ended.set()

    async def _watch(self, sha256: str, told: Callable[[Progress], None]) -> None:
        """Follow somebody else's fetch of the same file to its end, however it ends."""
        ended = self._ended[sha256]
        while not ended.is_set():
            fetch = self._fetches.get(sha256)
            if fetch is not None:
                told(fetch.progress)
            with trio.move_on_after(1.0):
                await ended.wait()

    async def holders(self, sha256: str) -> list[PeerId]:
        """Who has a file, or part of it, and can be reached; this node is never among them."""
        try:
            found = await self._network.find_providers(blob_key(self._swarm_id, sha256))
        except TetherError as error:
            _log.info("holders_not_found", cause=str(error)[:200])
            return []
        reached: list[PeerId] = []

        async def reach(address: PeerAddress) -> None:
            try:
                await self._network.connect(address)
            except TetherError as error:
                _log.debug("holder_not_reached", peer=address.peer, cause=str(error)[:200])
            else:
                reached.append(address.peer)

        async with trio.open_nursery() as nursery:
            for address in found:
                nursery.start_soon(reach, address)
        return reached

    async def _announce(self, sha256: str) -> None:
        try:
            await self._network.provide(blob_key(self._swarm_id, sha256))
        except TetherError as error:
            _log.debug("not_announced", cause=str(error)[:200])

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()
