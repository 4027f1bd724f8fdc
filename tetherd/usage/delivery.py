"""Brings usage events to a billing system: at least once, as long as it takes, and not longer than makes sense."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import httpx2
import structlog
import trio

from p2p.errors import CONFIG_INVALID, TetherError
from tetherd.store.outbox import Event, Outbox
from tetherd.usage.rows import event_id
from tetherd.usage.webhook import Secret, body_of, headers_of, pause_s, read_secret

LOOK_S: Final = 2.0
"""How late a new event leaves."""
AT_ONCE: Final = 8
"""Requests at a time to one system."""
BATCH: Final = 64
TRY_S: Final = 10.0
"""For one answer; a system that needs longer should take events in first and look at them later."""
CLAIM_S: Final = 120.0
"""When the events of a deliverer that died are due again; a batch that times out to its last event takes 80 s."""
OPEN_S: Final = 60.0
MAX_SLOW_S: Final = 60.0
"""While the system takes nothing at all, one batch in so long finds out whether it does again."""
DAY_S: Final = 86_400.0

_log: Final = structlog.get_logger()


class DeliveryMetrics(Protocol):
    def event(self, outcome: str) -> None:
        """outcome: delivered, failed (and tried again) or dead."""
        ...

    def backlog(self, waiting: int, dead: int, age_s: float) -> None: ...


class NoMetrics:
    """Counts nothing."""

    def event(self, outcome: str) -> None:
        pass

    def backlog(self, waiting: int, dead: int, age_s: float) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Hook:
    """days: how long an event is tried."""

    url: str
    secret: Secret
    days: float = 7.0


class HookConfig(Protocol):
    """`tetherd.config.UsageConfig`."""

    @property
    def webhook(self) -> str: ...
    @property
    def webhook_secret(self) -> str: ...
    @property
    def webhook_secret_file(self) -> Path | None: ...
    @property
    def webhook_days(self) -> float: ...


def read_hook(config: HookConfig, *, shared: bool) -> Hook | None:
    """What the configuration says, and the secret's file; None: no webhook. Raises TetherError(CONFIG_INVALID)."""
    if not config.webhook:
        return None
    if not shared:
        detail = (
            "A usage webhook needs one ledger that all orchestrators share: start them with "
            "--store postgresql://…."
        )
        raise TetherError(CONFIG_INVALID, detail, field="usage.webhook")
    text = config.webhook_secret
    if config.webhook_secret_file is not None:
        try:
            text = config.webhook_secret_file.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            detail = f"Cannot read {config.webhook_secret_file}: {type(error).__name__}."
            raise TetherError(CONFIG_INVALID, detail, field="usage.webhook_secret_file") from error
    return Hook(config.webhook, read_secret(text), config.webhook_days)


class Delivery:
    """now: ledger seconds; wall: unix seconds, for the receiver's clock; draw: 0 to 1."""

    def __init__(
        self,
        hook: Hook,
        outbox: Outbox,
        *,
        now: Callable[[], float],
        wall: Callable[[], float],
        metrics: DeliveryMetrics = NoMetrics(),  # noqa: B008 it keeps nothing
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._hook = hook
        self._outbox = outbox
        self._now = now
        self._wall = wall
        self._metrics = metrics
        self._draw = draw
        self._limit = trio.CapacityLimiter(AT_ONCE)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Raises TetherError(LEDGER_UNAVAILABLE) only before it has started."""
        await self._outbox.open(self._now())
        task_status.started()
        opened_s, slow_s = trio.current_time(), LOOK_S
        async with httpx2.AsyncClient(follow_redirects=False, timeout=TRY_S, trust_env=False) as client:
            while True:
                try:
                    if trio.current_time() - opened_s >= OPEN_S:
                        await self._outbox.open(self._now())
                        opened_s = trio.current_time()
                    tried, taken = await self._deliver(client)
                    await self._tell()
                except TetherError as error:
                    _log.warning("usage.outbox_away", code=error.code.name, detail=error.detail)
                    tried = taken = 0
                slow_s = min(slow_s * 2, MAX_SLOW_S) if tried and not taken else LOOK_S
                if taken < BATCH:
                    await trio.sleep(slow_s)

    async def _deliver(self, client: httpx2.AsyncClient) -> tuple[int, int]:
        """How many events were tried, and how many of them taken."""
        now = self._now()
        events = await self._outbox.claim(BATCH, now=now, until=now + CLAIM_S)
        outcomes: list[bool] = []
        async with trio.open_nursery() as nursery:
            for event in events:
                nursery.start_soon(self._try, client, event, outcomes)
        return len(events), sum(outcomes)

    async def _try(self, client: httpx2.AsyncClient, event: Event, outcomes: list[bool]) -> None:
        async with self._limit:
            cause = await self._send(client, event)
        outcomes.append(not cause)
        try:
            if cause:
                await self._failed(event, cause)
            else:
                await self._outbox.delivered(event.row.job)
                self._metrics.event("delivered")
        except TetherError as error:  # it stays claimed, and is delivered once more
            _log.warning("usage.outbox_away", code=error.code.name, detail=error.detail)

    async def _send(self, client: httpx2.AsyncClient, event: Event) -> str:
        """Why it was not taken; empty: it was. What the system answers beside its status is not read."""
        body = body_of(event.row)
        headers = headers_of(event.row, body, self._hook.secret, self._wall())
        cause = "no answer in time"
        with trio.move_on_after(TRY_S):
            try:
                async with client.stream("POST", self._hook.url, content=body, headers=headers) as answer:
                    status = answer.status_code
                    cause = "" if 200 <= status < 300 else f"status {status}"
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                cause = type(error).__name__
        return cause

    async def _failed(self, event: Event, cause: str) -> None:
        now, name = self._now(), event_id(event.row.job)
        due = now + pause_s(event.tries, self._draw())
        if due - event.created <= self._hook.days * DAY_S:
            self._metrics.event("failed")
            _log.info("usage.event_refused", event_id=name, tries=event.tries, cause=cause)
            await self._outbox.failed(event.row.job, cause, due=due)
        else:
            self._metrics.event("dead")
            _log.error("usage.event_dead", event_id=name, tries=event.tries, cause=cause)
            await self._outbox.failed(event.row.job, cause, due=None)

    async def _tell(self) -> None:
        backlog = await self._outbox.backlog()
        age_s = max(0.0, self._now() - backlog.oldest) if backlog.waiting else 0.0
        self._metrics.backlog(backlog.waiting, backlog.dead, age_s)
