"""The orchestrator's shell: serves placements, leases and settlements, and sweeps what nobody ends.

A placement is: check the request, match it to a worker, claim the attempt in the ledger, reserve the slot, sign the
grant. A worker that refuses costs an attempt number and the next one is tried. The prompt is never here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, Final

import structlog
import trio
from opentelemetry import trace

from p2p.errors import CAPACITY, FORBIDDEN, MODEL_NOT_FOUND, NO_WORKER, OUT_OF_RANGE, TetherError
from p2p.identity import NodeKey, PeerId
from p2p.job_id import job_id
from p2p.membership import Member
from p2p.messages import (
    PLACE,
    RELEASE,
    RENEW_LEASE,
    RESERVE,
    SETTLE,
    Ack,
    Grant,
    LeaseRenewal,
    Placement,
    PlacementRequest,
    Receipt,
    ReleaseRequest,
    ReserveRequest,
    ServedModel,
    Settlement,
    SignedGrant,
)
from p2p.rpc import Rpc
from p2p.traceparent import context_of
from p2p.wire import encode
from tetherd.orchestrator.bill import Bill, bill, check_receipt
from tetherd.orchestrator.breaker import Breakers
from tetherd.orchestrator.matcher import Match, NoMatch, WorkerState, match
from tetherd.orchestrator.ports import OrchestratorMetrics, Region
from tetherd.orchestrator.reservations import Reservations
from tetherd.orchestrator.shapes import job_shape, why_shape
from tetherd.store.protocol import AttemptRecord, JobRecord, Store

GRANT_S: Final = 15.0
LEASE_S: Final = 15.0
"""The worker renews it every five seconds."""
RESERVE_S: Final = 1.0
"""A worker that does not answer its own region's leader in a second is no worker for a waiting client."""
QUEUE_S: Final = 5.0
"""How long a placement waits for a slot before the client is told to come again."""
MAX_WAITING: Final = 256
LOOK_AGAIN_S: Final = 0.05
SWEEP_S: Final = 5.0
RELEASE_S: Final = 1.0
RETRY_AFTER_S: Final = 2.0
MAX_DEADLINE_S: Final = 3_600.0
MAX_TOKENS: Final = 10_000_000
MAX_TEXT_CHARS: Final = 256

_log = structlog.get_logger()
_tracer = trace.get_tracer(__name__)


class Orchestrator:
    """One candidate's part in leading its region. now: unix seconds, the ledger's time."""

    def __init__(
        self,
        key: NodeKey,
        member: Member,
        swarm: Region,
        rpc: Rpc,
        store: Store,
        *,
        now: Callable[[], float],
        metrics: OrchestratorMetrics,
    ) -> None:
        self._key = key
        self._member = member
        self._swarm = swarm
        self._rpc = rpc
        self._store = store
        self._now = now
        self._metrics = metrics
        self._breakers = Breakers()
        self._reservations = Reservations()
        self._waiting = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        self._rpc.serve(PLACE, self._place)
        self._rpc.serve(SETTLE, self._settle)
        self._rpc.serve(RENEW_LEASE, self._renew)
        task_status.started()
        while True:
            await trio.sleep(SWEEP_S)
            dead = await self._store.sweep(now=self._now())
            for row in dead:
                _log.warning("job.dead_lettered", job=row.job.hex(), cause=row.cause, trace_id=row.trace_id)
            self._metrics.dead_lettered(len(dead))

    async def jobs(self, limit: int) -> list[dict[str, Any]]:
        """The newest jobs of this ledger, as `tetherctl jobs` shows them."""
        return [job_shape(row) for row in await self._store.recent(limit)]

    async def why(self, prefix: str) -> dict[str, Any]:
        """One job by the beginning of its id. Raises TetherError(NOT_FOUND | FIELD_INVALID)."""
        return why_shape(prefix, await self._store.find(prefix))

    # ── Placement ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _place(self, gateway: PeerId, request: PlacementRequest) -> Placement:
        began = trio.current_time()
        job = request.job.hex()
        with _tracer.start_as_current_span(
            "orchestrator.place", context=context_of(request.trace_id), attributes={"tether.job": job}
        ):
            try:
                check_request(request)
                placement = await self._place_in_time(gateway, request)
            except TetherError as error:
                self._metrics.placed(error.code.name, trio.current_time() - began)
                _log.info("job.refused", job=job, code=error.code.name)
                raise
            self._metrics.placed("granted", trio.current_time() - began)
            return placement

    async def _place_in_time(self, gateway: PeerId, request: PlacementRequest) -> Placement:
        patience = trio.current_time() + min(QUEUE_S, request.deadline_s)
        refused: set[PeerId] = set(request.exclude)
        if request.exclude:
            self._breakers.failed(request.exclude[-1], trio.current_time())
        while True:
            found = match(request.job, request.model_id, request.version, self._workers(), refused)
            if isinstance(found, Match):
                worker, served = found.choices[0]
                placement = await self._try(gateway, request, worker, served)
                if placement is not None:
                    return placement
                refused.add(worker.peer)
            else:
                self._check_hope(request, found)
                if trio.current_time() >= patience:
                    raise TetherError(CAPACITY, "No slot came free in time.", retry_after_s=RETRY_AFTER_S)
                await self._wait_a_moment()
                refused = set(request.exclude)

    def _check_hope(self, request: PlacementRequest, found: NoMatch) -> None:
        """Raise unless waiting may help."""
        if found.reason == "unknown":
            there = ", ".join(found.models) or "none yet"
            detail = f"No worker in {self._swarm.region} serves {request.model_id!r}; there are: {there}."
            raise TetherError(MODEL_NOT_FOUND, detail, field="model")
        if found.reason == "broken" and request.exclude:
            raise TetherError(
                NO_WORKER, "Every worker that has the model has failed.", retry_after_s=RETRY_AFTER_S
            )

    async def _wait_a_moment(self) -> None:
        with self._queued():
            await trio.sleep(LOOK_AGAIN_S)

    @contextmanager
    def _queued(self) -> Any:
        if self._waiting >= MAX_WAITING:
            raise TetherError(CAPACITY, "Too many requests wait for a slot.", retry_after_s=RETRY_AFTER_S)
        self._waiting += 1
        self._metrics.waiting(self._waiting)
        try:
            yield
        finally:
            self._waiting -= 1
            self._metrics.waiting(self._waiting)

    def _workers(self) -> list[WorkerState]:
        now_s = trio.current_time()
        held = self._reservations.held(now_s)
        workers = []
        for known in self._swarm.view.workers(self._swarm.region):
            health = known.presence.health
            if health is None or health.capacity < 1:
                continue
            free = health.capacity - health.load - held.get(known.peer, 0)
            closed = self._breakers.allows(known.peer, now_s)
            workers.append(WorkerState(known.peer, health.model_cache, health.capacity, free, closed))
        return workers

    async def _try(
        self, gateway: PeerId, request: PlacementRequest, worker: WorkerState, served: ServedModel
    ) -> Placement | None:
        """Claim an attempt for this worker and reserve its slot; None if the worker will not have it."""
        now = self._now()
        grant_id = os.urandom(16)
        row = await self._claim(gateway, request, worker.peer, grant_id, now)
        wish = ReserveRequest(
            row.job, row.attempt, grant_id, served.digest, request.max_tokens, now + GRANT_S
        )
        self._reservations.promise(worker.peer, grant_id, trio.current_time())
        self._breakers.started(worker.peer, trio.current_time())
        try:
            answer = await self._rpc.ask(worker.peer, RESERVE, wish, timeout_s=RESERVE_S)
        except TetherError as error:
            self._reservations.release(grant_id)
            if error.code is not CAPACITY:
                self._breakers.failed(worker.peer, trio.current_time())
            _log.info("worker.refused", job=row.job.hex(), peer=worker.peer, code=error.code.name)
            return None
        except trio.Cancelled:
            await self._give_back(worker.peer, row.job, grant_id)
            raise
        grant = Grant(
            row.job,
            row.attempt,
            grant_id,
            row.tenant,
            gateway,
            worker.peer,
            answer.incarnation,
            served.digest,
            request.request_mac,
            request.max_prompt_tokens,
            request.max_tokens,
            now + GRANT_S,
        )
        known = next(one for one in self._swarm.view.workers(self._swarm.region) if one.peer == worker.peer)
        _log.info("job.granted", job=row.job.hex(), attempt=row.attempt, worker=worker.peer)
        return Placement(
            self._sign(grant), known.member.credential, known.presence.addresses, self._swarm.region, served
        )

    async def _claim(
        self, gateway: PeerId, request: PlacementRequest, worker: PeerId, grant_id: bytes, now: float
    ) -> JobRecord:
        wanted = JobRecord(
            job=request.job,
            tenant=request.tenant_id,
            retry_token=request.retry_token,
            model=request.model_id,
            gateway=gateway,
            request_mac=request.request_mac,
            state="running",
            attempt=request.last_attempt,
            owner=self._key.node_id,
            created=now,
            lease_until=now + LEASE_S,
            deadline=now + request.deadline_s,
            cause=request.cause,
            trace_id=request.trace_id,
        )
        attempt = AttemptRecord(0, grant_id, worker, self._swarm.region, now)
        return await self._store.claim(wanted, attempt, now=now)

    async def _give_back(self, worker: PeerId, job: bytes, grant_id: bytes) -> None:
        """The gateway no longer waits: the slot must not wait for its grant's end."""
        self._reservations.release(grant_id)
        with trio.move_on_after(RELEASE_S, shield=True):
            try:
                await self._rpc.ask(worker, RELEASE, ReleaseRequest(job, grant_id), timeout_s=RELEASE_S)
            except TetherError as error:
                _log.info("reservation.lost", job=job.hex(), peer=worker, code=error.code.name)

    def _sign(self, grant: Grant) -> SignedGrant:
        body = encode(grant)
        return SignedGrant(body, self._key.sign("grant", body), self._member.credential)

    # ── Leases and settlements ───────────────────────────────────────────────────────────────────────────────────

    async def _renew(self, worker: PeerId, renewal: LeaseRenewal) -> Ack:
        stored = await self._store.get(renewal.job)
        if stored is None or not stored.attempts or stored.attempts[-1].worker != worker:
            raise TetherError(FORBIDDEN, "This lease is another worker's, or another ledger's.")
        until = self._now() + LEASE_S
        if not await self._store.renew(renewal.job, renewal.attempt, renewal.grant_id, lease_until=until):
            raise TetherError(FORBIDDEN, "The attempt is over.")
        return Ack()

    async def _settle(self, gateway: PeerId, settlement: Settlement) -> Ack:
        stored = await self._store.get(settlement.job)
        if stored is None:
            _log.warning("settlement.unknown_job", job=settlement.job.hex(), gateway=gateway)
            return Ack()
        if stored.gateway != gateway:
            raise TetherError(FORBIDDEN, "This job is another gateway's.")
        receipts = [check_receipt(signed, settlement.job, gateway) for signed in settlement.receipts[:16]]
        total = bill(receipts, lambda receipt: _is_granted(stored, receipt))
        await self._end(stored, settlement, total)
        return Ack()

    async def _end(self, stored: JobRecord, settlement: Settlement, total: Bill) -> None:
        now = self._now()
        first = settlement.first_token_s
        ended = await self._store.settle(
            stored.job,
            settlement.attempt,
            settlement.end,
            prompt_tokens=total.prompt_tokens,
            tokens=total.tokens,
            first_token=None if first is None else stored.created + first,
            cause=settlement.cause,
            now=now,
        )
        last = stored.attempts[-1] if stored.attempts else None
        if last is not None:
            self._reservations.release(last.grant_id)
        if not ended:
            return
        if settlement.end == "done" and last is not None:
            self._breakers.succeeded(last.worker)
        self._metrics.settled(settlement.end, total.prompt_tokens, total.tokens)
        _log.info(
            "job.settled",
            job=stored.job.hex(),
            end=settlement.end,
            tokens=total.tokens,
            trace_id=stored.trace_id,
        )


def check_request(request: PlacementRequest) -> None:
    """The bounds of a placement request. Raises TetherError(OUT_OF_RANGE) naming the field."""
    texts = (
        request.tenant_id,
        request.model_id,
        request.version,
        request.retry_token,
        request.cause,
        request.trace_id,
    )
    bounds = (
        ("job", request.job == job_id(request.tenant_id, request.retry_token)),
        ("requestMac", len(request.request_mac) == 32),
        ("deadlineS", 0.0 < request.deadline_s <= MAX_DEADLINE_S),
        ("maxTokens", 0 < request.max_tokens <= MAX_TOKENS),
        ("maxPromptTokens", 0 <= request.max_prompt_tokens <= MAX_TOKENS),
        ("lastAttempt", 0 <= request.last_attempt < 1_000),
        ("exclude", len(request.exclude) <= 64),
        ("texts", all(len(text) <= MAX_TEXT_CHARS for text in texts)),
    )
    for field, holds in bounds:
        if not holds:
            raise TetherError(
                OUT_OF_RANGE, f"{field} of the placement request is out of bounds.", field=field
            )


def _is_granted(stored: JobRecord, receipt: Receipt) -> bool:
    return any(
        (one.grant_id, one.worker, one.attempt) == (receipt.grant_id, receipt.worker, receipt.attempt)
        for one in stored.attempts
    )
