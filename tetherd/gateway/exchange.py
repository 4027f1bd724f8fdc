"""One request on its way from placement to settlement: the shell around `dispatch`, and the `Answer` that it makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final

import structlog
import trio
from opentelemetry import trace

from p2p.content import ChunkBody, Usage
from p2p.errors import QUOTA_EXCEEDED, RATE_LIMITED, TetherError
from p2p.identity import PeerId
from p2p.messages import JobEnd, PlacementRequest, Settlement, SignedReceipt
from p2p.traceparent import context_of, current_traceparent
from tetherd.gateway.answer import Delta, End, Loading, Started
from tetherd.gateway.attempt import Chunks
from tetherd.gateway.chunks import countersign, events_of
from tetherd.gateway.dispatch import (
    Announce,
    Dispatch,
    Effect,
    Emit,
    Expired,
    Fail,
    Finish,
    Lost,
    Open,
    Pause,
    Paused,
    Place,
    Placed,
    Refused,
    Wait,
    is_clients_fault,
)
from tetherd.gateway.grants import Granted
from tetherd.gateway.order import Closing, Order, Parts
from tetherd.gateway.vectors import Vectors

BUFFERED: Final = 16
"""Pieces that wait here for a slow client; what comes after them waits at the worker, for credit."""

LIMITS: Final = frozenset({RATE_LIMITED, QUOTA_EXCEEDED})
_log: Final = structlog.get_logger()
_tracer: Final = trace.get_tracer(__name__)


class Exchange:
    """Run it in a task of its own; meanwhile it is the client's `Answer`."""

    def __init__(self, order: Order, parts: Parts) -> None:
        self._order = order
        self._parts = parts
        self._dispatch = Dispatch(parts.settings, order.max_tokens, parts.draw)
        self._vectors = Vectors(len(order.content.embed), order.model.embeds)
        self._send, self._receive = trio.open_memory_channel[Delta | End](BUFFERED)
        self._held: Delta | End | None = None
        self._known = trio.Event()
        self._started: Started | None = None
        self._failure: TetherError | None = None
        self._began = trio.current_time()
        self._deadline = self._began + parts.settings.deadline_s
        self._granted: Granted | None = None
        self._unopened = False
        self._spare: dict[PeerId, int] = {}
        self._receipts: list[tuple[PeerId, Callable[[], SignedReceipt]]] = []
        self._cached = 0
        self._first_token_s: float | None = None
        self._last_token = 0.0

    # ── For the client ───────────────────────────────────────────────────────────────────────────────────────────

    async def started(self) -> Started:
        await self._known.wait()
        if self._started is None:
            assert self._failure is not None
            raise self._failure
        return self._started

    def __aiter__(self) -> AsyncIterator[Delta | End]:
        return self

    async def __anext__(self) -> Delta | End:
        """What has come by now in one piece: a client that is written to late is written to once."""
        try:
            item = self._held or await self._receive.receive()
        except trio.EndOfChannel:
            if self._failure is not None:
                raise self._failure from None
            raise StopAsyncIteration from None
        self._held = None
        while isinstance(item, Delta):
            try:
                following = self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            if not isinstance(following, Delta):
                self._held = following
                return replace(item, last=True)
            item = item.with_next(following)
        return item

    # ── Its life ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Bring the request to its end. Whatever the end is, the ledger is told."""
        order, metrics = self._order, self._parts.metrics
        metrics.request_started()
        outcome = "cancelled"
        with _tracer.start_as_current_span("gateway.request", context_of(order.traceparent)) as span:
            span.set_attributes({"tether.job": order.job.hex(), "tether.model": order.model.name})
            try:
                end = await self._reach_end()
                outcome = "done" if isinstance(end, Finish) else end.error.code.name
                self._settle(end)
                if isinstance(end, Finish):
                    usage = Usage(self._dispatch.prompt_tokens, self._dispatch.position, self._cached)
                    await self._send.send(End(end.finish, usage, self._dispatch.attempts))
                    await trio.lowlevel.checkpoint()  # the client first
                else:
                    self._failure = end.error
            finally:
                if outcome == "cancelled":
                    self._settle(None)
                span.set_attributes({"tether.outcome": outcome, "tether.tokens": self._dispatch.position})
                self._report(outcome)
                self._send.close()
                self._known.set()

    async def _reach_end(self) -> Finish | Fail:
        with trio.CancelScope(deadline=self._deadline):
            return await self._advance(self._dispatch.begin())
        expired = self._dispatch.step(Expired())
        assert isinstance(expired, Fail)
        return expired

    async def _advance(self, effect: Effect | None) -> Finish | Fail:
        while True:
            match effect:
                case Place():
                    effect = await self._place(effect)
                case Pause(seconds):
                    await trio.sleep(seconds)
                    effect = self._dispatch.step(Paused())
                case Open(resume):
                    effect = await self._attempt(resume)
                case Finish() | Fail():
                    return effect
                case _:
                    raise AssertionError(f"{effect} outside of an attempt")

    async def _place(self, place: Place) -> Effect | None:
        order, parts = self._order, self._parts
        asked = trio.current_time()
        with _tracer.start_as_current_span("gateway.place"):
            wanted = PlacementRequest(
                job=order.job,
                tenant_id=order.tenant,
                model_id=order.model.name,
                version=order.model.version,
                max_prompt_tokens=order.max_prompt_tokens,
                max_tokens=order.max_tokens,
                request_mac=order.request_mac,
                retry_token=order.retry_token,
                deadline_s=min(self._deadline - asked, parts.settings.deadline_s),
                trace_id=current_traceparent(),
                last_attempt=self._granted.grant.attempt if self._granted else 0,
                exclude=place.exclude,
                cause=place.cause,
                input=order.input,
                exact=order.seed_given or self._granted is not None,
                prefixes=order.content.prefixes,
            )
            if order.key is not None:
                wanted = order.key.sign(wanted, parts.key.node_id)
            first = self._granted.leader if self._granted else None
            try:
                granted = await self._granted_by(wanted, first)
            except TetherError as error:
                parts.refusals.note(order.asker, order.worst_tokens, error, trio.current_time())
                return self._dispatch.step(Refused(error))
        parts.metrics.hop("place", trio.current_time() - asked)
        self._spare.pop(granted.leader, None)
        self._granted, self._unopened = granted, True
        return self._dispatch.step(Placed(granted.grant.worker, granted.region))

    async def _granted_by(self, wanted: PlacementRequest, first: PeerId | None) -> Granted:
        """A limit that is reached only by books that this gateway has not brought yet is no limit."""
        place, told = self._parts.placer.place, self._order.told
        try:
            return await place(wanted, first=first, spare=self._spare, told=told)
        except TetherError as error:
            if error.code not in LIMITS or not await self._parts.hurry():
                raise
        return await place(wanted, first=first, spare=self._spare, told=told)

    async def _attempt(self, resume: tuple[int, ...]) -> Effect | None:
        """Until the request goes on elsewhere, or ends."""
        granted = self._granted
        assert granted is not None
        grant = granted.grant
        with _tracer.start_as_current_span("gateway.infer") as span:
            span.set_attributes({"tether.worker": grant.worker, "tether.attempt": grant.attempt})
            try:
                effect = await self._ask(granted, resume)
            except TetherError as error:
                effect = self._dispatch.step(Lost(error))
            cause = self._dispatch.attempts[-1].cause
            span.set_attribute("tether.cause", cause)
        if cause:
            fields = {"job": self._order.job.hex(), "attempt": grant.attempt, "worker": grant.worker}
            _log.warning("gateway.attempt_failed", **fields, code=cause, position=self._dispatch.position)
        return effect

    async def _ask(self, granted: Granted, resume: tuple[int, ...]) -> Effect | None:
        """Open the attempt and read it to its end. Raises TetherError when it is lost on the way."""
        order, attempts = self._order, self._parts.attempts
        opened = trio.current_time()
        await attempts.reach(granted)
        self._unopened = False
        async with attempts.open(
            granted, order.content, resume, retry_token=order.retry_token, trace_id=current_traceparent()
        ) as chunks:
            while True:
                body = await chunks.next()
                if body.vectors and (fresh := self._vectors.take(body)):
                    await self._hand_on(Delta("", vectors=fresh), chunks)
                ending = await self._take(body, granted, chunks, opened)
                if body.usage is not None:
                    self._cached = max(0, min(body.usage.cached_tokens, self._dispatch.prompt_tokens))
                if body.receipt is not None:
                    self._take_receipt(body.receipt, granted, chunks, len(resume))
                if isinstance(ending, Finish):
                    await chunks.ended()
                if ending is not None:
                    return ending

    async def _take(self, body: ChunkBody, granted: Granted, chunks: Chunks, opened: float) -> Effect | None:
        """Do what a chunk says. Returns what ends the attempt, if it does."""
        settings = self._parts.settings
        for event in events_of(body, granted.grant):
            match self._dispatch.step(event):
                case None:
                    pass
                case Wait(percent):
                    if self._order.told is not None:
                        self._order.told(Loading(percent))
                case Announce(prompt_tokens):
                    self._parts.metrics.hop("open", trio.current_time() - opened)
                    chunks.patience_s = settings.accept_s + prompt_tokens / settings.prefill_tokens_per_s
                    self._announce(granted, prompt_tokens)
                case Emit(text, ids, logprobs):
                    chunks.patience_s = settings.stall_s
                    self._time(len(ids))
                    await self._hand_on(Delta(text, ids, logprobs), chunks)
                case ending:
                    return ending
        return None

    async def _hand_on(self, delta: Delta, chunks: Chunks) -> None:
        """Without a turn of the loop while there is room, so that chunks that came together go on together."""
        try:
            self._send.send_nowait(delta)
        except trio.WouldBlock:
            chunks.rest()
            await self._send.send(delta)

    def _announce(self, granted: Granted, prompt_tokens: int) -> None:
        if self._started is None:
            order, grant = self._order, granted.grant
            self._started = Started(
                order.job,
                order.model.name,
                order.model.version,
                grant.worker,
                granted.region,
                prompt_tokens,
                order.created,
                granted.rates,
            )
            self._known.set()

    def _time(self, tokens: int) -> None:
        now = trio.current_time()
        if tokens and self._first_token_s is None:
            self._first_token_s = now - self._began
            self._parts.metrics.first_token(self._first_token_s)
        elif tokens:
            self._parts.metrics.inter_token((now - self._last_token) / tokens)
        self._last_token = now

    # ── What the ledger and the operator are told ────────────────────────────────────────────────────────────────

    def _take_receipt(self, receipt: SignedReceipt, granted: Granted, chunks: Chunks, resumed: int) -> None:
        """Keep it with what was seen, which it has to agree with."""
        seen = partial(
            countersign,
            receipt,
            self._parts.key,
            granted.grant,
            prompt_tokens=self._dispatch.prompt_tokens,
            first_position=resumed,
            position=self._dispatch.position,
            chain=chunks.chain.link_before,
        )
        self._receipts.append((granted.grant.worker, seen))

    def _countersigned(self) -> Iterator[SignedReceipt]:
        """A receipt that says otherwise than what was seen is left out, and the ledger bills without it."""
        for worker, seen in self._receipts:
            try:
                yield seen()
            except TetherError as error:
                self._parts.metrics.receipt_refused()
                _log.warning(
                    "gateway.receipt_refused", job=self._order.job.hex(), worker=worker, detail=error.detail
                )

    def _settle(self, end: Finish | Fail | None) -> None:
        """None: the client left. A job that no leader ever granted has no row to end."""
        granted = self._granted
        if granted is None:
            return
        if self._unopened:
            self._parts.placer.release(granted)
        ending = _job_end(end)

        def make() -> Settlement:
            return Settlement(
                job=self._order.job,
                attempt=granted.grant.attempt,
                end=ending,
                receipts=tuple(self._countersigned()),
                first_token_s=self._first_token_s,
                cause=end.error.code.name if isinstance(end, Fail) else "",
                input=self._order.input if ending == "dead_lettered" else b"",
            )

        self._parts.settle(Closing(self._order.job, ending, make), granted.leader, self._spare)

    def _report(self, outcome: str) -> None:
        attempts, metrics = self._dispatch.attempts, self._parts.metrics
        for attempt in attempts:
            metrics.attempt_ended(attempt.cause or outcome)
        metrics.request_ended(outcome)
        name = {"done": "gateway.answered", "cancelled": "gateway.cancelled"}.get(outcome, "gateway.failed")
        _log.info(
            name,
            job=self._order.job.hex(),
            code=outcome,
            workers=[attempt.worker for attempt in attempts],
            tokens=self._dispatch.position,
            seconds=round(trio.current_time() - self._began, 3),
        )


def _job_end(end: Finish | Fail | None) -> JobEnd:
    """What is the client's fault has failed; what no attempt is left for is a dead letter."""
    match end:
        case None:
            return "cancelled"
        case Finish():
            return "done"
        case Fail(error):
            return "failed" if is_clients_fault(error) else "dead_lettered"
