"""The orchestrator role: serves placements, leases and settlements, and sweeps up what nobody ends."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

import structlog
import trio
from msgspec.structs import replace
from opentelemetry import trace

from p2p.errors import FORBIDDEN, NO_ORCHESTRATOR, TetherError
from p2p.identity import NodeKey, PeerId
from p2p.membership import Member, Papers
from p2p.messages import (
    PLACE,
    POSITION,
    RECEIPT,
    RENEW_LEASE,
    SETTLE,
    Ack,
    Placement,
    PlacementRequest,
    QueuePlace,
    Settlement,
)
from p2p.rates import Rates
from p2p.rpc import Rpc
from p2p.traceparent import context_of
from p2p.transport import Transport
from p2p.visible import MAX_MODELS, VISIBLE, VisibleAnswer, VisibleRequest
from tetherd.dead_letters.letters import MemoryLetters
from tetherd.dead_letters.office import Office
from tetherd.dead_letters.shelf import Shelf
from tetherd.orchestrator.copies import Copying
from tetherd.orchestrator.placing import Placements
from tetherd.orchestrator.ports import NoMetrics, OrchestratorMetrics, SwarmView
from tetherd.orchestrator.quotas import Quotas
from tetherd.orchestrator.registers import Registers
from tetherd.orchestrator.requests import check_placement_request
from tetherd.orchestrator.settling import Settlements
from tetherd.orchestrator.shapes import job_shape, why_shape
from tetherd.orchestrator.workforce import Workforce
from tetherd.quotas.account import rates, tightest
from tetherd.quotas.policies import Rule, rule_of
from tetherd.store.protocol import JobRecord, Store, Terms, UsageRow
from tetherd.store.replicated import ReplicatedStore
from tetherd.tenants.desk import MemoryKeeper, TenantDesk

SWEEP_S: Final = 5.0
"""A third of a lease: a job ends by its deadline and two leases."""
GRACE_S: Final = 20.0
"""After the ledger was away: gateways bring what they kept for it within seconds, and an end that receipts prove comes
before one that nobody knows."""

_log: Final = structlog.get_logger()
_tracer: Final = trace.get_tracer(__name__)


class Orchestrator:
    """One candidate's part in leading its region. now: unix seconds, the ledger's time; draw: 16 random bytes."""

    def __init__(
        self,
        key: NodeKey,
        papers: Papers,
        swarm: SwarmView,
        transport: Transport,
        rpc: Rpc,
        store: Store,
        *,
        now: Callable[[], float],
        draw: Callable[[], bytes] = lambda: os.urandom(16),
        metrics: OrchestratorMetrics = NoMetrics(),  # noqa: B008 it keeps nothing
        desk: TenantDesk | None = None,
        quotas: Quotas = Quotas(),  # noqa: B008 it is frozen
        office: Office | None = None,
    ) -> None:
        self._office = office or Office(Shelf(MemoryLetters(), now=now), now=now)
        self._desk = desk or TenantDesk(MemoryKeeper(), now=now)
        self._desk.shared = store.shared
        self._registers = Registers(papers.member.peer, swarm, transport, rpc, self._desk)
        self._papers = papers
        self._swarm = swarm
        self._transport = transport
        self._rpc = rpc
        self._copying = None
        if not store.shared:
            self._copying = Copying(
                papers.member.peer, swarm, transport, rpc, store, now=now, metrics=metrics
            )
            store = ReplicatedStore(store, self._copying)
        self._store = store
        self._now = now
        self._metrics = metrics
        workforce = Workforce(swarm)
        self._quotas = quotas
        self._placements = Placements(
            key,
            papers,
            swarm,
            transport,
            rpc,
            store,
            workforce,
            now=now,
            draw=draw,
            metrics=metrics,
            terms=self._terms,
            hold=lambda request, terms: quotas.hold(request, terms, self._rule(request)),
            only=lambda request: self._rule(request).workers,
            weight=lambda tenant: quotas.weight(tenant, self._desk.register),
        )
        self._settlements = Settlements(
            papers.member.peer, swarm, store, workforce, self._office, now=now, metrics=metrics
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        self._rpc.serve(PLACE, self._place)
        self._rpc.serve(SETTLE, self._settle)
        self._rpc.serve(POSITION, self._position)
        self._rpc.serve(VISIBLE, self._visible)
        self._rpc.serve(RENEW_LEASE, self._settlements.renew)
        self._rpc.serve(RECEIPT, self._settlements.report)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._placements.run)
            nursery.start_soon(self._sweep)
            await nursery.start(self._registers.run)
            if self._copying is not None:
                await nursery.start(self._copying.run)
            task_status.started()

    def ledger(self) -> dict[str, Any]:
        """How well what is accepted here is kept, as `tetherctl status` shows it."""
        copying = self._copying
        if copying is None:
            return {"shared": True, "copies": 0, "degraded": False}
        return {
            "shared": False,
            "copies": copying.followers,
            "degraded": copying.degraded or not copying.followers,
        }

    async def jobs(self, limit: int) -> list[dict[str, Any]]:
        """The newest jobs of this ledger, as `tetherctl jobs` shows them."""
        return [job_shape(row) for row in await self._store.recent(limit)]

    async def usage(self, since: float, until: float) -> AsyncIterator[UsageRow]:
        """What jobs came to that ended in [since, until), oldest first."""
        after, page = b"", await self._store.usage_rows(since, until)
        while page:
            for row in page:
                yield row
            since, after = page[-1].ended, page[-1].job
            page = await self._store.usage_rows(since, until, after=after)

    def credentials(self, peers: Iterable[PeerId]) -> dict[PeerId, bytes]:
        """By which it can be checked that they belong to the swarm, of those that are known here."""
        own = self._papers.member
        known = {own.peer: own.credential}
        for peer in peers:
            shown = self._transport.admission(peer)
            state = self._swarm.view.get(peer)
            if isinstance(shown, Member):
                known[peer] = shown.credential
            elif state is not None:
                known[peer] = state.member.credential
        return known

    async def why(self, prefix: str) -> dict[str, Any]:
        """One job by the beginning of its id. Raises TetherError(NOT_FOUND | FIELD_INVALID)."""
        return why_shape(prefix, await self._store.find(prefix))

    async def _place(self, gateway: PeerId, request: PlacementRequest) -> Placement:
        began, job = trio.current_time(), request.job.hex()
        with _tracer.start_as_current_span("orchestrator.place", context_of(request.trace_id)) as span:
            span.set_attributes({"tether.job": job, "tether.model": request.model_id})
            try:
                self._check_leads()
                self._check_is_gateway(gateway)
                check_placement_request(request)
                self._office.check(request.input)
                await self._registers.heard()
                await self._desk.admit(request, gateway)
                rule, region = self._rule(request), self._swarm.region
                rule.check(request.tenant_id, region, request.max_tokens)
                placement = await self._placements.place(gateway, request)
                placement = replace(placement, rates=self._rates(request))
            except TetherError as error:
                self._metrics.placed(error.code.name, trio.current_time() - began)
                _log.info("job.refused", job=job, code=error.code.name, trace_id=request.trace_id)
                raise
            self._metrics.placed("granted", trio.current_time() - began)
            return placement

    def _terms(self, request: PlacementRequest) -> tuple[Terms, ...]:
        return self._quotas.terms(request, self._desk.register)

    def _rule(self, request: PlacementRequest) -> Rule:
        return rule_of(self._desk.register.policies, request.model_id, request.tenant_id)

    def _rates(self, request: PlacementRequest) -> Rates | None:
        """What is left of the tighter minute: the tenant's, or its key's."""
        limits = {one.subject: one.limits for one in self._terms(request) if one.limits.paced}
        if not limits:
            return None
        now, books = self._now(), self._store.seen(list(limits))
        told = [rates(one.at(limits[one.subject], now), limits[one.subject]) for one in books]
        return tightest(told)

    async def _settle(self, gateway: PeerId, settlement: Settlement) -> Ack:
        self._check_is_gateway(gateway)
        return await self._settlements.settle(gateway, settlement)

    async def _position(self, _gateway: PeerId, asked: QueuePlace) -> QueuePlace:
        """Whoever knows a job's id was told it by its gateway."""
        return QueuePlace(asked.job, self._placements.position(asked.job))

    async def _visible(self, gateway: PeerId, asked: VisibleRequest) -> VisibleAnswer:
        self._check_is_gateway(gateway)
        policies = self._desk.register.policies
        rules = ((name, rule_of(policies, name, asked.tenant_id)) for name in asked.models[:MAX_MODELS])
        region = self._swarm.region
        return VisibleAnswer(tuple(name for name, rule in rules if not rule.shows(asked.tenant_id, region)))

    def _check_leads(self) -> None:
        """Two nodes may lead for a moment, for the ledger fences jobs; one that knows better says so."""
        if self._papers.member.peer not in self._swarm.leaders():
            detail = f"This node does not lead region {self._swarm.region}: ask another one."
            raise TetherError(NO_ORCHESTRATOR, detail)

    def _check_is_gateway(self, caller: PeerId) -> None:
        shown = (
            self._papers.member if caller == self._papers.member.peer else self._transport.admission(caller)
        )
        if not isinstance(shown, Member) or "gateway" not in shown.certificate.roles:
            raise TetherError(FORBIDDEN, "Only a node with the role gateway may ask this of an orchestrator.")

    async def _sweep(self) -> None:
        calm_at = trio.current_time() + GRACE_S
        while True:
            await trio.sleep(SWEEP_S)
            try:
                if trio.current_time() < calm_at:
                    await self._store.get(bytes(32))  # only whether it answers
                    continue
                over = await self._store.sweep(now=self._now())
            except TetherError as error:
                _log.error("ledger.failed", detail=error.detail)
                calm_at = trio.current_time() + GRACE_S
                continue
            for row in over:
                _log.warning(
                    "job.swept", job=row.job.hex(), end=row.state, cause=row.cause, trace_id=row.trace_id
                )
            await self._bury([row for row in over if row.state == "dead_lettered"])
            self._metrics.dead_lettered(sum(row.state == "dead_lettered" for row in over))

    async def _bury(self, dead: Sequence[JobRecord]) -> None:
        for row in dead:
            try:
                await self._office.bury(row)
            except TetherError as error:
                _log.error("dead_letter.lost", job=row.job.hex(), cause=row.cause, detail=error.detail)
