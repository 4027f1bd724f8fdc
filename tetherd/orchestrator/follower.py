"""One candidate that is sent a ledger's rows: what is fresh first, and between it what the candidate may lack."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import trio

from p2p.errors import TetherError
from tetherd.store.protocol import JobRecord, Store

BATCH: Final = 64
"""Rows a message: some 64 KiB."""
RETRY_S: Final = 0.5
"""After a message that was not acknowledged; the candidate may be on its way out of the region's leaders."""

Send = Callable[[Sequence[JobRecord]], Awaitable[None]]


@dataclass(slots=True)
class _Change:
    """row None: whatever the ledger holds when it is sent."""

    row: JobRecord | None
    heard: list[trio.Event]


class Follower:
    """send: brings rows and returns once they are acknowledged, or raises TetherError.

    since: what changed from then on (ledger seconds) is sent as well. What changed twice before it went is sent once.
    """

    def __init__(self, store: Store, send: Send, since: float) -> None:
        self.scope = trio.CancelScope()
        self._store = store
        self._send = send
        self._fresh: dict[bytes, _Change] = {}
        self._news = trio.Event()
        self._past = _Past(since)

    def add(self, job: bytes, row: JobRecord | None = None, heard: trio.Event | None = None) -> None:
        """Send the job's row: this one, or what the ledger says by then. heard is set once it is acknowledged."""
        change = self._fresh.setdefault(job, _Change(row, []))
        change.row = row
        if heard is not None:
            change.heard.append(heard)
        self._news.set()

    async def run(self) -> None:
        """Send until scope is cancelled."""
        with self.scope:
            while True:
                batch = self._take()
                try:
                    sent = await self._send_batch(batch)
                except TetherError:
                    self._put_back(batch)
                    await trio.sleep(RETRY_S)
                    continue
                for change in batch.values():
                    for heard in change.heard:
                        heard.set()
                if not sent and not self._fresh:
                    self._news = trio.Event()
                    await self._news.wait()

    async def _send_batch(self, batch: dict[bytes, _Change]) -> bool:
        """Whether there was anything to send. Raises TetherError when it was not acknowledged, or cannot be read."""
        found = [change.row or await self._store.get(job) for job, change in batch.items()]
        rows = [row for row in found if row is not None]
        past = await self._past.next(self._store, BATCH - len(rows))
        rows += [row for row in past if row.job not in batch]
        if rows:
            await self._send(rows)
        self._past.sent(past)
        return bool(rows)

    def _take(self) -> dict[bytes, _Change]:
        batch = dict(islice(self._fresh.items(), BATCH))
        for job in batch:
            del self._fresh[job]
        return batch

    def _put_back(self, batch: dict[bytes, _Change]) -> None:
        for job, change in batch.items():
            newer = self._fresh.setdefault(job, _Change(None, []))
            newer.heard += change.heard


class _Past:
    """Where the reading of what changed earlier has come to: a page counts once it is acknowledged."""

    def __init__(self, since: float) -> None:
        self._since = since
        self._after = b""
        self._over = False

    async def next(self, store: Store, limit: int) -> Sequence[JobRecord]:
        if self._over or limit < 1:
            return ()
        page = await store.touched(self._since, self._after, limit)
        self._over = not page
        return page

    def sent(self, page: Sequence[JobRecord]) -> None:
        if page:
            self._after = page[-1].job
