"""The gateway: takes parsed requests, and answers them from whatever worker the region's orchestrator grants.

It alone has the prompt, so it alone can go on elsewhere when a worker dies. What one request does is in
`exchange.py`, what it decides in `dispatch.py`.
"""

from __future__ import annotations

import dataclasses
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec
import trio
from msgspec.structs import replace

from p2p.content import SealedInput
from p2p.errors import (
    BODY_TOO_LARGE,
    DRAINING,
    IN_FLIGHT,
    LEDGER_UNAVAILABLE,
    RETRY_TOKEN_CONFLICT,
    UNAUTHENTICATED,
    TetherError,
)
from p2p.identity import NodeKey, PeerId
from p2p.job_id import job_id
from p2p.membership import SwarmId
from p2p.messages import RETRY_LETTER, RetryAnswer, RetryOrder
from p2p.request_mac import request_mac
from p2p.rpc import Rpc
from p2p.transport import Transport
from p2p.wire import encode
from tetherd.gateway.answer import Answer, ModelSummary, Submission, Told
from tetherd.gateway.attempt import Attempts
from tetherd.gateway.bounds import prompt_bound
from tetherd.gateway.catalogue import Catalogue
from tetherd.gateway.exchange import Exchange
from tetherd.gateway.journal import Journal
from tetherd.gateway.models import check_embeds, choose, summarize
from tetherd.gateway.order import Closing, Order, Parts
from tetherd.gateway.placing import Placer
from tetherd.gateway.ports import GatewayMetrics, NoMetrics, Swarm
from tetherd.gateway.prefixes import prefixes_of
from tetherd.gateway.refusals import Refusals
from tetherd.gateway.replay import Replays
from tetherd.gateway.retries import Retries
from tetherd.gateway.secrets import drawn_seed, input_digest, local_secret, mac_key
from tetherd.gateway.settings import GatewaySettings
from tetherd.gateway.settling import Settler
from tetherd.identity.tokens import TokenProof, Tokens
from tetherd.tenants.keys import KeyProof
from tetherd.tenants.register import LOCAL

RETRY_S: Final = 1.0
"""What a repeated request that is still being answered is told to wait."""


@dataclass(frozen=True, slots=True)
class _Asked:
    job: bytes
    retry_token: str
    content: SealedInput
    request_mac: bytes
    input: bytes


class Gateway:
    """Implements `Inference`. now: unix seconds; draw: uniform in [0, 1), for backoff; meaning: of a model's alias.

    tokens: of the OIDC issuer, if one is trusted; require_keys: nothing is done for who shows neither key nor token.
    """

    def __init__(
        self,
        key: NodeKey,
        swarm_id: SwarmId,
        transport: Transport,
        rpc: Rpc,
        swarm: Swarm,
        replays: Replays,
        journal: Journal,
        retries: Retries,
        *,
        metrics: GatewayMetrics = NoMetrics(),  # noqa: B008 it keeps nothing
        settings: GatewaySettings = GatewaySettings(),  # noqa: B008 it is frozen
        now: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
        meaning: Callable[[str], str] = str,
        tokens: Tokens | None = None,
        require_keys: bool = False,
    ) -> None:
        self._swarm = swarm
        self._meaning = meaning
        self._tokens = tokens
        self._require_keys = require_keys
        self._replays = replays
        self._settings = settings
        self._now = now
        self._secret = local_secret(key)
        placer = Placer(transport, rpc, swarm, swarm_id, settings, self._spawn, now)
        self._journal = journal
        self._retries = retries
        self._rpc = rpc
        self._settler = Settler(rpc, swarm, journal, settings, placer.reach, draw, metrics)
        self._parts = Parts(
            key=key,
            placer=placer,
            attempts=Attempts(rpc, swarm, placer, settings),
            settings=settings,
            metrics=metrics,
            settle=self._settle,
            hurry=self._settler.hurry,
            draw=draw,
            refusals=Refusals(),
        )
        self._catalogue = Catalogue(rpc, swarm)
        self._running: dict[bytes, bytes] = {}
        self._submissions: dict[bytes, Submission] = {}
        self._behind = 0
        self._idle = trio.Event()
        self._draining = False
        self._stopped = False
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own what outlives single requests, settlements above all, until cancelled."""
        await self._replays.open()
        await self._retries.open()
        await self._settler.open()
        self._rpc.serve(RETRY_LETTER, self._retry)
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await self._settler.run()
        finally:
            self._stopped = True

    @property
    def running(self) -> int:
        """Answers under way."""
        return len(self._running)

    async def drain(self) -> None:
        """Take no new request; return when those under way are answered and settled."""
        self._draining = True
        while self._running or self._behind:
            await self._idle.wait()
        with trio.move_on_after(self._settings.settle_drain_s):
            await self._settler.settled()

    # ── Inference ────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def submit(self, submission: Submission, told: Told | None = None) -> AsyncIterator[Answer]:
        """Raises TetherError, at once for what this gateway knows by itself: an unknown model, a key in use."""
        submission = await self._known(submission)
        if self._draining:
            raise TetherError(DRAINING, "This node takes no new requests.", retry_after_s=RETRY_S)
        self._check_journal()
        asked = self._identify(submission)
        with self._in_flight(asked):
            if not submission.idempotency_key:
                async with self._exchange(self._order(submission, asked, told)) as answer:
                    yield answer
            elif replayed := await self._replays.find(asked.job, asked.request_mac, submission.model):
                self._parts.metrics.request_started()
                self._parts.metrics.request_ended("replayed")
                yield replayed
            else:
                async with self._exchange(self._order(submission, asked, told)) as answer:
                    yield self._replays.record(answer, asked.request_mac, submission.model)

    async def _retry(self, caller: PeerId, order: RetryOrder) -> RetryAnswer:
        answer, again, original = await self._retries.begin(caller, order)
        self._spawn(self._retries.finish, self._try_again, order, answer, again, original)
        return answer

    async def _try_again(self, again: Submission, original: Submission) -> None:
        asked, before = self._identify(again), self._identify(original)
        with self._in_flight(asked):
            async with self._exchange(self._order(again, asked)) as answer:
                if original.idempotency_key:
                    answer = self._replays.record(answer, before.request_mac, original.model, before.job)
                async for _ in answer:
                    pass

    @asynccontextmanager
    async def _exchange(self, order: Order) -> AsyncIterator[Answer]:
        failure: TetherError | None = None
        async with trio.open_nursery() as nursery:
            exchange = Exchange(order, self._parts)
            nursery.start_soon(exchange.run)
            try:
                yield exchange
            except TetherError as error:
                failure = error  # a nursery would wrap it in a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def models(self, key: KeyProof | TokenProof | None = None) -> list[ModelSummary]:
        """Raises TetherError(UNAUTHENTICATED | ISSUER_UNAVAILABLE) for a token that is not good."""
        tenant = key.tenant if key else ""
        if isinstance(key, TokenProof) and self._tokens is not None:
            tenant = (await self._tokens.check(key.token)).tenant
        return await self._catalogue.of(tenant or LOCAL, self.served())

    def served(self) -> list[ModelSummary]:
        return summarize(self._swarm.view.workers(self._swarm.region))

    def ready(self) -> tuple[bool, str]:
        if self._draining:
            return False, "This node is draining."
        if not self._swarm.leaders():
            return False, f"No orchestrator of region {self._swarm.region} is known yet."
        if not self.served():
            return False, f"No worker of region {self._swarm.region} is known yet."
        return True, ""

    # ── How ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _known(self, submission: Submission) -> Submission:
        """Whose it is, if a token says so. Where no issuer is trusted, a token is as good as any placeholder.

        Raises TetherError(UNAUTHENTICATED | TENANT_FORBIDDEN | ISSUER_UNAVAILABLE).
        """
        key = submission.key
        if isinstance(key, TokenProof):
            if self._tokens is None:
                key = None
            else:
                claims = await self._tokens.check(key.token)
                claims.check_model(submission.model)
                key = msgspec.structs.replace(key, tenant=claims.tenant)
                submission = dataclasses.replace(submission, tenant=claims.tenant)
        if key is None and self._require_keys:
            raise TetherError(
                UNAUTHENTICATED, "This node serves nobody without a key.", field="Authorization"
            )
        return dataclasses.replace(submission, key=key)

    def _identify(self, submission: Submission) -> _Asked:
        """What makes a request this one: the same key and body give the same job, content and MAC."""
        retry_token = submission.idempotency_key or uuid.uuid4().hex
        job = job_id(submission.tenant, retry_token)
        sampling = submission.sampling
        secret = (submission.key and submission.key.secret) or self._secret
        if not submission.seed_given:
            sampling = replace(sampling, seed=drawn_seed(secret, job))
        content = SealedInput(
            mac_key=mac_key(secret, job),
            messages=submission.messages,
            prompt=submission.prompt,
            sampling=sampling,
            max_tokens=submission.max_tokens,
            tools=submission.tools,
            embed=submission.embed,
        )
        content = replace(content, prefixes=prefixes_of(secret, submission.model, content))
        said = msgspec.msgpack.encode(
            (
                submission.messages,
                submission.prompt,
                submission.sampling,
                submission.tools,
                submission.embed,
            )
        )
        return _Asked(
            job, retry_token, content, request_mac(content.mac_key, content), input_digest(secret, said)
        )

    def _order(self, submission: Submission, asked: _Asked, told: Told | None = None) -> Order:
        model = choose(self.served(), submission.model, self._swarm.region, self._meaning)
        check_embeds(model, submission)
        size, limit = len(encode(asked.content)), self._settings.max_input_bytes
        if size > limit:
            raise TetherError(
                BODY_TOO_LARGE,
                f"The prompt has {size} bytes; a worker takes at most {limit}.",
                field="messages",
            )
        most = self._settings.max_tokens
        order = Order(
            job=asked.job,
            tenant=submission.tenant,
            retry_token=asked.retry_token,
            model=model,
            content=asked.content,
            request_mac=asked.request_mac,
            max_prompt_tokens=min(prompt_bound(asked.content, self._settings.tokens_per_message), most),
            max_tokens=min(submission.max_tokens or model.context_tokens, most),
            traceparent=submission.traceparent,
            created=self._now(),
            key=submission.key,
            input=asked.input,
            seed_given=submission.seed_given,
            told=told,
        )
        self._parts.refusals.check(order.asker, order.worst_tokens, trio.current_time())
        self._submissions[asked.job] = submission
        return order

    @contextmanager
    def _in_flight(self, asked: _Asked) -> Iterator[None]:
        """One answer a job at a time. Raises TetherError(IN_FLIGHT | RETRY_TOKEN_CONFLICT)."""
        other = self._running.get(asked.job)
        if other is not None and other != asked.request_mac:
            raise TetherError(
                RETRY_TOKEN_CONFLICT,
                "The Idempotency-Key belongs to another request that is being answered.",
                field="Idempotency-Key",
            )
        if other is not None:
            raise TetherError(
                IN_FLIGHT, "This request is being answered.", field="Idempotency-Key", retry_after_s=RETRY_S
            )
        self._running[asked.job] = asked.request_mac
        try:
            yield
        finally:
            del self._running[asked.job]
            self._submissions.pop(asked.job, None)
            self._look_idle()

    def _check_journal(self) -> None:
        """Nothing is begun whose end could not be written down. Raises TetherError(LEDGER_UNAVAILABLE)."""
        if self._journal.has_room:
            return
        why = "cannot be written" if self._journal.failing else "is full: the ledger has been away for long"
        detail = f"This node's journal of settlements {why}."
        raise TetherError(LEDGER_UNAVAILABLE, detail, retry_after_s=self._settings.settle_pause_s)

    def _settle(self, closing: Closing, leader: PeerId, spare: Mapping[PeerId, int]) -> None:
        submission = self._submissions.pop(closing.job, None)
        if self._stopped:
            self._settler.owe_now(closing.make(), leader, spare)
        else:
            kept = submission if closing.end == "dead_lettered" else None
            self._spawn(self._settle_later, kept, closing, leader, spare)

    async def _settle_later(
        self, dead: Submission | None, closing: Closing, leader: PeerId, spare: Mapping[PeerId, int]
    ) -> None:
        if dead is not None:
            with trio.CancelScope(shield=True):
                await self._retries.keep(closing.job, dead)
        await self._settler.settle(closing.make, leader, spare)

    def _spawn(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Start what may outlive its request. Once this node stops, what is not written down is the sweeper's."""
        if self._stopped:
            return
        if self._nursery is None:
            raise RuntimeError("Gateway.run has to be started first")
        self._behind += 1
        self._nursery.start_soon(self._behind_the_back, work, args)

    async def _behind_the_back(self, work: Callable[..., Awaitable[None]], args: tuple[object, ...]) -> None:
        try:
            await work(*args)
        finally:
            self._behind -= 1
            self._look_idle()

    def _look_idle(self) -> None:
        if not self._running and not self._behind:
            self._idle.set()
            self._idle = trio.Event()
