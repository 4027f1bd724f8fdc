"""Embedded ledgers keep each other's rows, so that a leader's successor knows what it accepted.

Every committed row goes to the next two candidates in the order of the election, so to the likeliest successors. A
candidate that meets another one asks it for what it missed. Rows are joined by tetherd.store.merge; neither order nor
repetition matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog
import trio

from p2p.errors import FORBIDDEN, OUT_OF_RANGE, TetherError
from p2p.identity import PeerId
from p2p.membership import Member
from p2p.messages import CATCH_UP, COPY_ROWS, Ack, LedgerRows, LedgerSince
from p2p.rpc import Rpc
from p2p.transport import PeerAddress, Transport
from tetherd.orchestrator.follower import BATCH, Follower
from tetherd.orchestrator.ports import OrchestratorMetrics, SwarmView
from tetherd.store.jobs import KEEP_ENDED_S
from tetherd.store.merge import pack, unpack
from tetherd.store.protocol import JobRecord, Store

FOLLOWERS: Final = 2
"""Two disks may die at once before a row is lost; more would cost every commit for less and less."""
ACK_S: Final = 0.2
"""A client waits: after this the row is accepted as degraded. A LAN answers in 2 ms, a continent in 100."""
CATCH_UP_S: Final = 1.0
"""How long a claim waits for what this node missed while it was away."""
LOOK_S: Final = 0.5
"""How often the region's leaders are looked at; they beat as often."""
SEND_S: Final = 3.0
RETRY_S: Final = 0.5
SEED_S: Final = 3_600.0
"""What a new follower is given of the past; as long as answers are kept for a replay."""
OVERLAP_S: Final = 3_600.0
"""How far before its newest job a returning candidate asks: longer than a job may take."""

_log: Final = structlog.get_logger()


class Copying:
    """Implements `tetherd.store.replicated.Copies`. store: this node's own ledger; now: unix seconds."""

    def __init__(
        self,
        me: PeerId,
        swarm: SwarmView,
        transport: Transport,
        rpc: Rpc,
        store: Store,
        *,
        now: Callable[[], float],
        metrics: OrchestratorMetrics,
    ) -> None:
        self._me = me
        self._swarm = swarm
        self._transport = transport
        self._rpc = rpc
        self._store = store
        self._now = now
        self._metrics = metrics
        self._followers: dict[PeerId, Follower] = {}
        self._met: set[PeerId] = set()
        self._missing = 0
        self._whole = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.degraded = False

    @property
    def followers(self) -> int:
        """Candidates that are sent this ledger's rows now."""
        return len(self._followers)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve copies and bring them, until cancelled."""
        self._rpc.serve(COPY_ROWS, self._take)
        self._rpc.serve(CATCH_UP, self._page)
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            while True:
                self._look()
                await trio.sleep(LOOK_S)

    # ── What the ledger asks ─────────────────────────────────────────────────────────────────────────────────────

    async def caught_up(self) -> None:
        self._look()
        if not self._missing:
            return
        with trio.move_on_after(CATCH_UP_S):
            await self._whole.wait()

    async def spread(self, job: bytes, row: JobRecord | None = None) -> None:
        self._look()
        heard = trio.Event()
        for follower in self._followers.values():
            follower.add(job, row, heard)
        if self._followers:
            with trio.move_on_after(ACK_S):
                await heard.wait()
        self.degraded = not heard.is_set()
        self._metrics.copied(heard.is_set())

    def note(self, job: bytes) -> None:
        for follower in self._followers.values():
            follower.add(job)

    # ── Who is there ─────────────────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> None:
        """Follow the region's leaders: feed the next two, and ask everyone who is new here what this node missed."""
        if self._nursery is None:
            return
        others = [peer for peer in self._swarm.leaders() if peer != self._me]
        for peer in self._met.difference(others):
            self._met.discard(peer)
        for peer in others:
            if peer not in self._met:
                self._met.add(peer)
                if not self._missing:
                    self._whole = trio.Event()
                self._missing += 1
                self._nursery.start_soon(self._meet, peer)
        following = others[:FOLLOWERS]
        for peer in [peer for peer in self._followers if peer not in following]:
            self._followers.pop(peer).scope.cancel()
        for peer in following:
            if peer not in self._followers:
                follower = self._followers[peer] = Follower(
                    self._store, partial(self._send, peer), self._now() - SEED_S
                )
                self._nursery.start_soon(follower.run)

    async def _send(self, peer: PeerId, rows: Sequence[JobRecord]) -> None:
        await self._reach(peer)
        await self._rpc.ask(peer, COPY_ROWS, LedgerRows(tuple(pack(row) for row in rows)), timeout_s=SEND_S)

    async def _reach(self, peer: PeerId) -> None:
        known = self._swarm.view.get(peer)
        await self._transport.connect(PeerAddress(peer, known.presence.addresses if known else ()))

    async def _meet(self, peer: PeerId) -> None:
        """Take what another candidate has and this one may lack, now or as soon as it can be reached."""
        whole = await self._pull(peer)
        self._missing -= 1
        if not self._missing:
            self._whole.set()
        while not whole and peer in self._met:
            await trio.sleep(RETRY_S)
            whole = await self._pull(peer)

    async def _pull(self, peer: PeerId) -> bool:
        pulled, after = 0, b""
        try:
            newest = await self._store.recent(1)
            since = newest[0].created - OVERLAP_S if newest else self._now() - KEEP_ENDED_S
            await self._reach(peer)
            while True:
                page = await self._rpc.ask(peer, CATCH_UP, LedgerSince(since, after), timeout_s=SEND_S)
                rows = [unpack(row) for row in page.rows[:BATCH]]
                if not rows or rows[-1].job <= after:
                    break
                await self._store.take(rows)
                pulled, after = pulled + len(rows), rows[-1].job
        except TetherError as error:
            _log.info("ledger.catch_up_failed", peer=peer, code=error.code.name, rows=pulled)
            return False
        if pulled:
            _log.info("ledger.caught_up", peer=peer, rows=pulled)
        return True

    # ── What others ask ──────────────────────────────────────────────────────────────────────────────────────────

    async def _take(self, caller: PeerId, copies: LedgerRows) -> Ack:
        """Raises TetherError(FORBIDDEN | FRAME_INVALID), and INTERNAL when the disk fails: then there is no copy."""
        self._check_candidate(caller)
        if len(copies.rows) > BATCH:
            raise TetherError(OUT_OF_RANGE, f"At most {BATCH} rows a message.", field="rows")
        await self._store.take([unpack(row) for row in copies.rows])
        return Ack()

    async def _page(self, caller: PeerId, asked: LedgerSince) -> LedgerRows:
        self._check_candidate(caller)
        if len(asked.after) > 32:
            raise TetherError(OUT_OF_RANGE, "A job id has 32 bytes.", field="after")
        rows = await self._store.touched(asked.since, asked.after, BATCH)
        return LedgerRows(tuple(pack(row) for row in rows))

    def _check_candidate(self, caller: PeerId) -> None:
        shown = self._transport.admission(caller)
        if isinstance(shown, Member):
            certificate = shown.certificate
            if "orchestrator" in certificate.roles and self._swarm.region in certificate.regions:
                return
        raise TetherError(FORBIDDEN, f"Only an orchestrator of region {self._swarm.region} keeps its ledger.")
