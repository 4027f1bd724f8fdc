"""The worker role: lends this machine's engines to whoever brings an orchestrator's grant."""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import psutil
import structlog
import trio
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from inference.attempt import Attempt, ChunkWriter
from inference.engine_room import EngineRoom, Turn
from inference.grants import check_grant
from inference.held_prefixes import HeldPrefixes, check_prefixes
from inference.manifest import Manifest
from inference.slots import Slots
from inference.worker_metrics import NoMetrics, Rate, WorkerMetrics
from p2p.content import ChunkBody, SealedInput
from p2p.errors import (
    ATTEMPT_STALE,
    CANCELLED,
    DRAINING,
    FORBIDDEN,
    FRAME_INVALID,
    GRANT_INVALID,
    MODEL_NOT_FOUND,
    TetherError,
)
from p2p.identity import NodeKey, PeerId
from p2p.membership import Member, SwarmId
from p2p.messages import (
    INFER,
    RECEIPT,
    RELEASE,
    RENEW_LEASE,
    RESERVE,
    Ack,
    Grant,
    HealthReport,
    InferChunk,
    InferRequest,
    LeaseRenewal,
    ReleaseRequest,
    ReserveAnswer,
    ReserveRequest,
    Role,
    SignedReceipt,
)
from p2p.request_mac import MAX_MAC_KEY_BYTES, request_mac
from p2p.rpc import Rpc, ServerCall
from p2p.sealed import open_from
from p2p.traceparent import context_of
from p2p.wire import decode

LEASE_RENEWAL_S: Final = 5.0
"""A third of the lease, so that one renewal may fail."""
LEASE_TIMEOUT_S: Final = 3.0
LEADERS_ASKED: Final = 2
FINISHED: Final = ("stop", "length")
MAX_UNHEARD: Final = 1_024
"""Receipts for the ledger; it takes them in milliseconds, and bills without those that it never hears of."""

log: Final = structlog.get_logger()
_tracer: Final = trace.get_tracer(__name__)


@dataclass(slots=True)
class _Running:
    """fault: what its caller is told if this worker ends it."""

    grant: Grant
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    fault: TetherError | None = None

    def end(self, fault: TetherError) -> None:
        self.fault = fault
        self.scope.cancel()


class Worker:
    """One node's worker role.

    admission: what a connected peer proved, None for one without a connection; leaders: orchestrators of the region,
    best first; now: unix seconds; gpu_class: the GPU's name, where engines use it; on_change: called when the load or
    the state changes.
    """

    def __init__(
        self,
        key: NodeKey,
        incarnation: int,
        rpc: Rpc,
        admission: Callable[[PeerId], Member | None],
        swarm_id: SwarmId,
        region: str,
        room: EngineRoom,
        *,
        now: Callable[[], float],
        leaders: Callable[[], list[PeerId]],
        gpu_class: str = "cpu",
        metrics: WorkerMetrics = NoMetrics(),  # noqa: B008 it keeps nothing
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._key = key
        self._incarnation = incarnation
        self._rpc = rpc
        self._admission = admission
        self._swarm_id = swarm_id
        self._region = region
        self._room = room
        room.on_change = self._changed
        self._now = now
        self._leaders = leaders
        self._gpu_class = gpu_class
        self._metrics = metrics
        self._on_change = on_change
        self._slots = Slots(room.slots)
        self._running: dict[bytes, _Running] = {}
        self._unheard: deque[SignedReceipt] = deque(maxlen=MAX_UNHEARD)
        self._unheard_of = trio.Event()
        self._idle = trio.Event()
        self._rate = Rate()
        self._prefixes = HeldPrefixes()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve RESERVE, RELEASE and INFER, and renew the leases of what runs, until cancelled."""
        self._rpc.serve(RESERVE, self._reserve)
        self._rpc.serve(RELEASE, self._release)
        self._rpc.serve_stream(INFER, self._infer)
        self._changed()
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report)
            while True:
                await trio.sleep(LEASE_RENEWAL_S)
                for running in self._running.values():
                    nursery.start_soon(self._renew_lease, running.grant)

    @property
    def busy(self) -> bool:
        """Whether it makes tokens now."""
        return bool(self._running)

    def health(self) -> HealthReport:
        return HealthReport(
            worker_id=self._key.node_id,
            capacity=self._room.capacity,
            gpu_class=self._gpu_class if self._room.on_gpu else "cpu",
            model_cache=self._room.served(),
            load=self._slots.load(self._now()),
            queue=self._room.waiting,
            tokens_per_second=self._rate.per_second(trio.current_time()),
            free_bytes=psutil.virtual_memory().available,
            prefixes=self._prefixes.digests(),
            build_tags=self._room.build_tags(),
        )

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, let what runs finish, and end what has not finished in time; it goes on elsewhere."""
        self._slots.draining = True
        self._changed()
        with trio.move_on_after(timeout_s):
            await self._finished()
        for running in self._running.values():
            running.end(TetherError(DRAINING, "This worker is shutting down."))
        await self._finished()

    async def _finished(self) -> None:
        while self._running:
            self._idle = trio.Event()
            await self._idle.wait()

    # ── Reservations ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _reserve(self, caller: PeerId, asked: ReserveRequest) -> ReserveAnswer:
        self._check_role(caller, "orchestrator", self._region)
        self._room.check(asked.manifest_digest)
        now = self._now()
        self._supersede(self._slots.reserve(asked, now))
        self._changed()
        return ReserveAnswer(self._incarnation, self._slots.load(now))

    async def _release(self, caller: PeerId, asked: ReleaseRequest) -> Ack:
        """Any member that knows the grant's 128 random bits was told them by the orchestrator or the gateway."""
        self._slots.release(asked.job, asked.grant_id)
        self._changed()
        return Ack()

    def _check_role(self, caller: PeerId, role: Role, region: str | None = None) -> None:
        """region: None where it does not matter: gateways of every region may be sent here."""
        if caller == self._key.node_id:
            return
        member = self._admission(caller)
        if member is None or role not in member.certificate.roles:
            raise TetherError(FORBIDDEN, f"Only a node with the role {role} may ask this of a worker.")
        if region is not None and region not in member.certificate.regions:
            raise TetherError(
                FORBIDDEN, f"Only the region {region}'s own {role}s may ask this of a worker there."
            )

    def _supersede(self, grant_ids: tuple[bytes, ...]) -> None:
        for grant_id in grant_ids:
            if grant_id in self._running:
                fault = TetherError(ATTEMPT_STALE, "A later attempt of this job was seen here.")
                self._running[grant_id].end(fault)

    def _changed(self) -> None:
        self._metrics.slots(self._slots.running, self._room.capacity)
        self._on_change()

    # ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _infer(self, call: ServerCall[InferRequest, InferChunk]) -> None:
        started_s = trio.current_time()
        request = call.request
        self._check_role(call.peer, "gateway")
        grant = check_grant(
            request.grant,
            caller=call.peer,
            worker=self._key.node_id,
            incarnation=self._incarnation,
            swarm_id=self._swarm_id,
            region=self._region,
            now=self._now(),
        )
        if (offer := self._room.offer(grant.manifest_digest)) is None:
            raise TetherError(MODEL_NOT_FOUND, "This worker does not serve that model.", field="model")
        seal, plain = open_from(self._key, grant.job, grant.attempt, request.input)
        content = open_content(plain, grant)
        writer = ChunkWriter(seal, request.correlation_id, call.send, call.finish)
        with (
            self._slot(grant) as running,
            _span(request, grant, offer.manifest) as span,
            self._room.ask(grant.manifest_digest) as turn,
        ):
            attempt: Attempt | None = None
            outcome = CANCELLED.name
            try:
                with running.scope:
                    await _load(turn, writer)
                    attempt = Attempt(
                        self._key,
                        grant,
                        content,
                        turn.engine,
                        writer,
                        self._metrics,
                        started_s,
                        self._sampled,
                    )
                    outcome = await attempt.run()
                if running.scope.cancelled_caught and running.fault is not None:
                    raise running.fault
            except TetherError as error:
                outcome = error.code.name
                span.set_status(StatusCode.ERROR, outcome)
                raise
            finally:
                self._metrics.finished(outcome, trio.current_time() - started_s)
                span.set_attribute("tether.outcome", outcome)
                if attempt is not None:
                    self._note(attempt, outcome, content, span)

    def _note(self, attempt: Attempt, outcome: str, content: SealedInput, span: Span) -> None:
        """Keep what an attempt leaves behind: a receipt that its gateway did not hear, beginnings in the cache."""
        if attempt.accepted and outcome not in FINISHED:
            self._unheard.append(attempt.receipt(outcome))
            self._unheard_of.set()
        if attempt.prompt_tokens:
            self._prefixes.add(content.prefixes)
        span.set_attribute("tether.prompt_tokens", attempt.prompt_tokens)
        span.set_attribute("tether.sampled_tokens", attempt.position - len(content.resume))

    @contextmanager
    def _slot(self, grant: Grant) -> Iterator[_Running]:
        """Run a grant in a slot, and free it whatever happens."""
        self._supersede(self._slots.claim(grant, self._now()))
        running = self._running[grant.grant_id] = _Running(grant)
        self._changed()
        try:
            yield running
        finally:
            del self._running[grant.grant_id]
            self._slots.finish(grant.grant_id)
            self._idle.set()
            self._changed()

    def _sampled(self, tokens: int) -> None:
        self._rate.add(tokens, trio.current_time())

    async def _renew_lease(self, grant: Grant) -> None:
        """Tell the first leader that answers. A lease outlives two lost renewals, so a failure is only noted."""
        renewal = LeaseRenewal(grant.job, grant.attempt, grant.grant_id)
        for leader in self._leaders()[:LEADERS_ASKED]:
            try:
                await self._rpc.ask(leader, RENEW_LEASE, renewal, timeout_s=LEASE_TIMEOUT_S)
            except TetherError as error:
                log.info("lease_not_renewed", job=grant.job.hex(), leader=leader, code=error.code.name)
            else:
                return

    async def _report(self) -> None:
        """Tell the ledger what attempts came to whose gateway did not hear it: it went on elsewhere, left or died."""
        while True:
            await self._unheard_of.wait()
            self._unheard_of = trio.Event()
            while self._unheard:
                receipt = self._unheard.popleft()
                for leader in self._leaders()[:LEADERS_ASKED]:
                    try:
                        await self._rpc.ask(leader, RECEIPT, receipt, timeout_s=LEASE_TIMEOUT_S)
                    except TetherError as error:
                        log.info("receipt_not_reported", leader=leader, code=error.code.name)
                    else:
                        break


async def _load(turn: Turn, writer: ChunkWriter) -> None:
    """Wait for the model, telling whoever asked. Raises TetherError(CAPACITY | ENGINE_FAILED | MODEL_NOT_FOUND)."""
    async for percent in turn.progress():
        await writer.write(ChunkBody(loading=percent))


def open_content(plain: bytes, grant: Grant) -> SealedInput:
    """Read what was sealed and check that it is what the grant was given for.

    Raises FRAME_INVALID | GRANT_INVALID | OUT_OF_RANGE.
    """
    try:
        content = decode(plain, SealedInput)
    except TetherError:
        # The decoder's own words may quote the content, and this error goes out in clear.
        raise TetherError(FRAME_INVALID, "The sealed input is no message of this protocol.") from None
    if [content.messages is None, content.prompt is None, not content.embed].count(False) != 1:
        raise TetherError(FRAME_INVALID, "The sealed input has to hold messages, a prompt, or what to embed.")
    check_prefixes(content.prefixes)
    if not 0 < len(content.mac_key) <= MAX_MAC_KEY_BYTES:
        raise TetherError(GRANT_INVALID, "The key of the request MAC is out of bounds.")
    if not hmac.compare_digest(request_mac(content.mac_key, content), grant.request_mac):
        raise TetherError(GRANT_INVALID, "The grant was given for another request.")
    return content


@contextmanager
def _span(request: InferRequest, grant: Grant, manifest: Manifest) -> Iterator[Span]:
    """A child of the gateway's span. It never becomes the current one: it stays open across awaits."""
    span = _tracer.start_span(
        "worker.infer",
        context=context_of(request.trace_id),
        kind=SpanKind.SERVER,
        attributes={
            "tether.job": grant.job.hex(),
            "tether.attempt": grant.attempt,
            "tether.model": f"{manifest.name}@{manifest.version}",
        },
    )
    try:
        yield span
    finally:
        span.end()
