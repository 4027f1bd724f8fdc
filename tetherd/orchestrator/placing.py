"""A placement: wait for a slot, claim the attempt in the ledger, reserve the slot, sign the grant.

A worker that refuses costs an attempt number, and the next one is tried. Whoever asked may leave at any time: then the
slot is given back and the attempt is closed, so that neither waits for its timeout. The prompt is never here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog
import trio
from msgspec import structs

from p2p.errors import (
    CANCELLED,
    CAPACITY,
    DEADLINE,
    MODEL_NOT_FOUND,
    NO_WORKER,
    UNREACHABLE,
    TetherError,
)
from p2p.identity import NodeKey, PeerId
from p2p.membership import Papers
from p2p.messages import (
    RELEASE,
    RESERVE,
    Grant,
    Placement,
    PlacementRequest,
    ReleaseRequest,
    ReserveAnswer,
    ReserveRequest,
    SignedGrant,
)
from p2p.rpc import Rpc
from p2p.transport import PeerAddress, Transport
from p2p.wire import encode
from tetherd.orchestrator.matcher import NoMatch, Wish
from tetherd.orchestrator.ports import OrchestratorMetrics, SwarmView
from tetherd.orchestrator.waiting_room import WaitingRoom
from tetherd.orchestrator.workforce import Seat, Workforce
from tetherd.quotas.hold import Hold
from tetherd.store.jobs import LEASE_S
from tetherd.store.protocol import AttemptRecord, JobRecord, Store, Terms

FIRST: Final = 1
"""The number of a job's first attempt, as the ledger counts (tetherd/store/jobs.py)."""
GRANT_S: Final = 15.0
"""From the gateway's next breath to the worker's door; a reservation is held as long."""
RESERVE_S: Final = 1.0
"""A worker that does not answer its own region's leader in a second is no worker for a waiting client."""
QUEUE_S: Final = 5.0
"""How long a placement waits for a slot before the client is told to come again."""
RETRY_AFTER_S: Final = 2.0
MAX_RETRY_AFTER_S: Final = 60.0
MAX_LISTED: Final = 20
"""Models in a sentence."""
CLEAN_UP_S: Final = 1.0
"""For giving back what a gateway that left does not need; unheard, it ends by itself after GRANT_S."""

_log: Final = structlog.get_logger()


class Placements:
    """now: unix seconds, the ledger's time; draw: 16 random bytes, a grant's id; terms, hold, weight: of quotas.

    only: the workers that a policy allows; None: any.
    """

    def __init__(
        self,
        key: NodeKey,
        papers: Papers,
        swarm: SwarmView,
        transport: Transport,
        rpc: Rpc,
        store: Store,
        workforce: Workforce,
        *,
        now: Callable[[], float],
        draw: Callable[[], bytes],
        metrics: OrchestratorMetrics,
        terms: Callable[[PlacementRequest], tuple[Terms, ...]] = lambda _request: (),
        hold: Callable[[PlacementRequest, tuple[Terms, ...]], Hold | None] = lambda _request, _terms: None,
        weight: Callable[[str], int] = lambda _tenant: 1,
        only: Callable[[PlacementRequest], frozenset[PeerId] | None] = lambda _request: None,
    ) -> None:
        self._key = key
        self._papers = papers
        self._swarm = swarm
        self._transport = transport
        self._rpc = rpc
        self._store = store
        self._workforce = workforce
        self._now = now
        self._draw = draw
        self._terms = terms
        self._hold = hold
        self._weight = weight
        self._only = only
        self._room = WaitingRoom(workforce, metrics)

    async def run(self) -> None:
        """Look after those who wait, until cancelled."""
        await self._room.run()

    def position(self, job: bytes) -> int:
        """How many are due before this job, and itself; 0: it does not wait here."""
        return self._room.position(job)

    async def place(self, gateway: PeerId, request: PlacementRequest) -> Placement:
        """Raises TetherError(MODEL_NOT_FOUND | NO_WORKER | CAPACITY), and what Store.claim raises."""
        until_s = trio.current_time() + min(QUEUE_S, request.deadline_s)
        digest = await self._digest(request)
        excluded = frozenset(request.exclude)
        wish = Wish(
            request.job,
            request.model_id,
            request.version,
            digest,
            excluded,
            request.exact,
            request.prefixes,
            self._only(request),
        )
        while True:
            seat = await self._room.seat(
                request.tenant_id,
                wish,
                until_s,
                tokens=request.max_prompt_tokens + request.max_tokens,
                weight=self._weight(request.tenant_id),
            )
            if isinstance(seat, NoMatch):
                raise self._refusal(wish, seat)
            placement = await self._try(gateway, request, seat)
            if isinstance(placement, Placement):
                return placement
            if placement.code is not CAPACITY:
                wish = replace(wish, exclude=wish.exclude | {seat.peer})
            if trio.current_time() >= until_s:
                raise self._refusal(wish, NoMatch("busy" if placement.code is CAPACITY else "broken"))

    async def _digest(self, request: PlacementRequest) -> str:
        """An answer goes on with the very file it was begun with, whatever else has the same name and version."""
        stored = await self._store.get(request.job) if request.last_attempt else None
        return stored.digest if stored else ""

    def _refusal(self, wish: Wish, found: NoMatch) -> TetherError:
        model, region = wish.model[:100], self._swarm.region
        match found.reason:
            case "busy":
                detail = f"Every worker of region {region} that serves {model!r} is busy."
                wait_s = self._room.wait_s(wish) or RETRY_AFTER_S
                return TetherError(CAPACITY, detail, retry_after_s=min(max(wait_s, 1.0), MAX_RETRY_AFTER_S))
            case "excluded" | "broken":
                detail = f"Every worker of region {region} that serves {model!r} has failed lately."
                return TetherError(NO_WORKER, detail, retry_after_s=RETRY_AFTER_S)
            case "unserved" if wish.only is not None:
                detail = f"None of the workers that the policy of {model!r} allows serves it in region {region} now."
                return TetherError(NO_WORKER, detail, field="model", retry_after_s=RETRY_AFTER_S)
            case "unserved":
                if self._workforce.knew(wish.model):
                    detail = f"No worker of region {region} serves {model!r} now; one did a while ago."
                    return TetherError(NO_WORKER, detail, field="model", retry_after_s=RETRY_AFTER_S)
                if not (models := self._workforce.models()):
                    detail = f"No worker of region {region} is known yet."
                    return TetherError(NO_WORKER, detail, field="model", retry_after_s=RETRY_AFTER_S)
                there = ", ".join(models[:MAX_LISTED])
                detail = f"There is no model {model!r} in region {region}; there are: {there}."
                return TetherError(MODEL_NOT_FOUND, detail, field="model")

    # ── One worker ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _try(self, gateway: PeerId, request: PlacementRequest, seat: Seat) -> Placement | TetherError:
        """Claim an attempt for this worker and reserve its slot. Returns the worker's refusal, if it refuses.

        Only a ledger knows an attempt's number, but that of a job's first one is hardly ever another than FIRST: its
        slot is reserved while the claim is on its way to the disk. Later ones wait, for their number ends others.
        """
        now, grant_id = self._now(), self._draw()
        wanted = ReserveRequest(
            request.job, FIRST, grant_id, seat.served.digest, request.max_tokens, now + GRANT_S
        )
        row: JobRecord | TetherError | None = None
        answers: list[ReserveAnswer | TetherError] = []
        stayed = False

        async def reserve_early() -> None:
            answers.append(await self._reserve(seat, wanted))

        try:
            async with trio.open_nursery() as nursery:
                if not request.last_attempt:
                    nursery.start_soon(reserve_early)
                row = await self._claim(gateway, request, seat, grant_id, now)
                if isinstance(row, TetherError):
                    nursery.cancel_scope.cancel()
            if isinstance(row, JobRecord) and (not answers or row.attempt != FIRST):
                answers.append(await self._reserve(seat, structs.replace(wanted, attempt=row.attempt)))
            stayed = True
        finally:
            if not stayed:
                with trio.move_on_after(CLEAN_UP_S, shield=True):
                    await self._clean_up(seat, row, wanted)
        if isinstance(row, TetherError):
            if request.last_attempt:
                self._workforce.left(seat)
            else:
                await self._clean_up(seat, row, wanted)
            raise row
        answer = answers[-1]
        if isinstance(answer, TetherError):
            await self._refused(seat, row, answer)
            return answer
        self._workforce.reserved(seat, answer)
        grant = Grant(
            job=row.job,
            attempt=row.attempt,
            grant_id=grant_id,
            tenant=row.tenant,
            gateway=gateway,
            worker=seat.peer,
            worker_incarnation=answer.incarnation,
            manifest_digest=seat.served.digest,
            request_mac=request.request_mac,
            max_prompt_tokens=request.max_prompt_tokens,
            max_tokens=request.max_tokens,
            not_after=now + GRANT_S,
        )
        _log.info("job.granted", job=row.job.hex(), attempt=row.attempt, worker=seat.peer)
        return Placement(
            self._sign(grant),
            seat.worker.member.credential,
            seat.worker.presence.addresses,
            self._swarm.region,
            seat.served,
        )

    async def _claim(
        self, gateway: PeerId, request: PlacementRequest, seat: Seat, grant_id: bytes, now: float
    ) -> JobRecord | TetherError:
        """Shielded: whether an attempt was begun must be known to whoever has to close it. Returns a refusal."""
        terms = self._terms(request)
        wanted = JobRecord(
            job=request.job,
            tenant=request.tenant_id,
            retry_token=request.retry_token,
            model=request.model_id,
            digest=seat.served.digest,
            gateway=gateway,
            request_mac=request.request_mac,
            max_prompt_tokens=request.max_prompt_tokens,
            max_tokens=request.max_tokens,
            state="running",
            attempt=request.last_attempt,
            owner=self._key.node_id,
            created=now,
            lease_until=now + LEASE_S,
            deadline=now + request.deadline_s,
            cause=request.cause,
            key_id=request.key_id,
            hold=self._hold(request, terms),
            trace_id=request.trace_id,
        )
        attempt = AttemptRecord(0, grant_id, seat.peer, self._swarm.region, now)
        try:
            with trio.CancelScope(shield=True):
                row = await self._store.claim(wanted, attempt, now=now, terms=terms)
        except TetherError as refusal:
            return refusal
        self._blame(request, row, now)
        return row

    def _blame(self, request: PlacementRequest, row: JobRecord, now: float) -> None:
        """The gateway says why the last attempt ended; if that was at a worker, its breaker is told."""
        closed = row.attempts[-2] if len(row.attempts) > 1 else None
        if closed is None or (closed.end, closed.cause) != (now, request.cause):
            return
        if closed.worker in request.exclude:
            self._workforce.failed(closed.worker, row.model, closed.cause)

    async def _reserve(self, seat: Seat, wanted: ReserveRequest) -> ReserveAnswer | TetherError:
        with trio.move_on_after(RESERVE_S):
            try:
                if seat.peer != self._transport.peer_id:
                    await self._transport.connect(PeerAddress(seat.peer, seat.worker.presence.addresses))
                return await self._rpc.ask(seat.peer, RESERVE, wanted, timeout_s=RESERVE_S)
            except TetherError as refusal:
                return refusal
        return TetherError(DEADLINE, "The worker did not answer in time.")

    async def _refused(self, seat: Seat, row: JobRecord, refusal: TetherError) -> None:
        self._workforce.refused(seat, refusal)
        if refusal.code is UNREACHABLE:
            self._swarm.report_unreachable(seat.peer)
        _log.info(
            "worker.refused", job=row.job.hex(), attempt=row.attempt, peer=seat.peer, code=refusal.code.name
        )
        with trio.CancelScope(shield=True):
            await self._store.withdraw(row.job, row.attempt, refusal.code.name, now=self._now())

    async def _clean_up(
        self, seat: Seat, row: JobRecord | TetherError | None, wanted: ReserveRequest
    ) -> None:
        """Nobody waits for this slot any more. row: what the ledger said, None: it was not asked."""
        self._workforce.left(seat)
        try:
            if isinstance(row, JobRecord):
                _log.info("job.left", job=row.job.hex(), attempt=row.attempt)
                await self._store.withdraw(row.job, row.attempt, CANCELLED.name, now=self._now())
            request = ReleaseRequest(wanted.job, wanted.grant_id)
            await self._rpc.ask(seat.peer, RELEASE, request, timeout_s=CLEAN_UP_S)
        except TetherError as error:
            _log.info("reservation.lost", job=wanted.job.hex(), peer=seat.peer, code=error.code.name)

    def _sign(self, grant: Grant) -> SignedGrant:
        body = encode(grant)
        return SignedGrant(body, self._key.sign("grant", body), self._papers.credential)
