"""Asking the region's leaders for a worker: the first at once, the next when one refuses or is silent.

A leader that cannot decide (unreachable, no orchestrator any more, a grant that does not hold) sends the question on to
the next at once. A decision (granted, no worker, no capacity, told before) is the answer, unless another leader is
being asked as well: then a grant wins over a refusal. A grant that nobody needs any more is given back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from typing import Final

import structlog
import trio

from p2p.errors import (
    CAPACITY,
    CONTEXT_EXCEEDED,
    FIELD_INVALID,
    FORBIDDEN,
    IN_FLIGHT,
    INPUT_QUARANTINED,
    LEDGER_UNAVAILABLE,
    MODEL_NOT_FOUND,
    NO_ORCHESTRATOR,
    NO_WORKER,
    OUT_OF_RANGE,
    QUOTA_EXCEEDED,
    RATE_LIMITED,
    RESULT_GONE,
    RETRY_TOKEN_CONFLICT,
    TENANT_FORBIDDEN,
    UNAUTHENTICATED,
    UNREACHABLE,
    TetherError,
)
from p2p.identity import PeerId
from p2p.membership import SwarmId
from p2p.messages import PLACE, POSITION, RELEASE, PlacementRequest, QueuePlace, ReleaseRequest
from p2p.rpc import Rpc
from p2p.transport import PeerAddress, Transport
from tetherd.gateway.answer import Queued, Told
from tetherd.gateway.grants import Granted, check_placement
from tetherd.gateway.ports import Swarm
from tetherd.gateway.settings import GatewaySettings

DECISIONS: Final = frozenset(
    {NO_WORKER, CAPACITY, MODEL_NOT_FOUND, FORBIDDEN, FIELD_INVALID, OUT_OF_RANGE, CONTEXT_EXCEEDED}
    | {INPUT_QUARANTINED, RETRY_TOKEN_CONFLICT, RESULT_GONE, IN_FLIGHT, UNAUTHENTICATED, TENANT_FORBIDDEN}
    | {RATE_LIMITED, QUOTA_EXCEEDED}
)
"""What a leader says about the request; every other failure is about the leader."""
_log: Final = structlog.get_logger()

HEDGED: Final = 2
"""Leaders that are asked at a time."""

Outcome = Granted | TetherError


@dataclass(slots=True)
class _Round:
    """One placement: who was asked, and what they said. spare: as in `Placer.place`."""

    wanted: PlacementRequest
    spare: dict[PeerId, int]
    send: trio.MemorySendChannel[tuple[PeerId, Outcome]]
    receive: trio.MemoryReceiveChannel[tuple[PeerId, Outcome]]
    waiting: deque[PeerId]
    scopes: list[trio.CancelScope] = field(default_factory=list)
    pending: int = 0
    over: bool = False


class Placer:
    """spawn: starts work that outlives a request. now: unix seconds."""

    def __init__(
        self,
        transport: Transport,
        rpc: Rpc,
        swarm: Swarm,
        swarm_id: SwarmId,
        settings: GatewaySettings,
        spawn: Callable[..., None],
        now: Callable[[], float],
    ) -> None:
        self._transport = transport
        self._rpc = rpc
        self._swarm = swarm
        self._swarm_id = swarm_id
        self._settings = settings
        self._spawn = spawn
        self._now = now

    async def place(
        self,
        wanted: PlacementRequest,
        *,
        first: PeerId | None,
        spare: dict[PeerId, int],
        told: Told | None = None,
    ) -> Granted:
        """Ask until somebody grants. Raises TetherError: a leader's decision, LEDGER_UNAVAILABLE or NO_ORCHESTRATOR.

        first: who granted an earlier attempt and keeps the job's row; spare: is told who else granted which attempt;
        told: now and then, how far the job has come in the first leader's queue.
        """
        tell_at = trio.current_time() + self._settings.position_s if told is not None else inf
        leaders = self._swarm.leaders()[: self._settings.leaders]
        if first in leaders:
            leaders.remove(first)
            leaders.insert(0, first)
        async with self._round(leaders, wanted, spare) as round_:
            refusal: TetherError | None = None
            away: TetherError | None = None
            while round_.waiting or round_.pending:
                if not round_.pending:
                    self._ask_next(round_)
                may_hedge = round_.waiting and round_.pending < HEDGED
                hedge_at = trio.current_time() + self._settings.hedge_s if may_hedge else inf
                with trio.CancelScope(deadline=min(hedge_at, tell_at)) as silence:
                    leader, outcome = await round_.receive.receive()
                if silence.cancelled_caught:
                    if hedge_at <= tell_at:
                        self._ask_next(round_)
                    else:
                        self._spawn(self._tell_position, round_, told)
                        tell_at += self._settings.position_s
                    continue
                round_.pending -= 1
                if isinstance(outcome, Granted):
                    return outcome
                if outcome.code in DECISIONS:
                    refusal = outcome
                    round_.waiting.clear()
                elif outcome.code is LEDGER_UNAVAILABLE:
                    detail = f"The ledger of region {self._swarm.region} is away; nothing was accepted."
                    away = TetherError(outcome.code, detail, retry_after_s=outcome.retry_after_s)
                elif outcome.code is UNREACHABLE:
                    self._swarm.report_unreachable(leader)
        raise (
            refusal
            or away
            or TetherError(
                NO_ORCHESTRATOR,
                f"No orchestrator of region {self._swarm.region} answers.",
                retry_after_s=self._settings.backoff_cap_s,
            )
        )

    async def _tell_position(self, round_: _Round, told: Told) -> None:
        for leader in self._swarm.leaders()[:1]:
            with suppress(TetherError):
                asked, patience_s = QueuePlace(round_.wanted.job), self._settings.position_s
                place = await self._rpc.ask(leader, POSITION, asked, timeout_s=patience_s)
                if place.position > 0 and not round_.over:
                    told(Queued(place.position))

    async def reach(self, address: PeerAddress) -> None:
        """Connect, unless it is this node itself. Raises TetherError(UNREACHABLE | CERTIFICATE_*)."""
        if address.peer != self._transport.peer_id:
            await self._transport.connect(address)

    def release(self, granted: Granted) -> None:
        """Give a grant back that was not brought to its worker."""
        self._spawn(self._release, granted)

    @asynccontextmanager
    async def _round(
        self, leaders: list[PeerId], wanted: PlacementRequest, spare: dict[PeerId, int]
    ) -> AsyncIterator[_Round]:
        """Whoever has not answered at the end goes on alone; if the request was cancelled, it is told to stop."""
        channel = trio.open_memory_channel[tuple[PeerId, Outcome]](len(leaders))
        round_ = _Round(wanted, spare, *channel, deque(leaders))
        try:
            yield round_
        except trio.Cancelled:
            for scope in round_.scopes:
                scope.cancel()
            raise
        finally:
            round_.over = True
            with suppress(trio.WouldBlock):
                while True:
                    self._unneeded(round_, round_.receive.receive_nowait()[1])
            round_.receive.close()

    def _ask_next(self, round_: _Round) -> None:
        round_.pending += 1
        self._spawn(self._ask, round_, round_.waiting.popleft())

    async def _ask(self, round_: _Round, leader: PeerId) -> None:
        with trio.CancelScope() as scope:
            round_.scopes.append(scope)
            outcome = await self._outcome(leader, round_.wanted)
            try:
                round_.send.send_nowait((leader, outcome))
            except trio.BrokenResourceError:
                self._unneeded(round_, outcome)

    async def _outcome(self, leader: PeerId, wanted: PlacementRequest) -> Outcome:
        try:
            await self.reach(PeerAddress(leader, self._swarm.addresses_of(leader)))
            placement = await self._rpc.ask(leader, PLACE, wanted, timeout_s=self._settings.place_s)
            return check_placement(
                placement,
                wanted,
                leader=leader,
                gateway=self._transport.peer_id,
                swarm_id=self._swarm_id,
                now=self._now(),
            )
        except TetherError as error:
            if error.code not in DECISIONS:
                _log.warning(
                    "gateway.leader_failed", leader=leader, code=error.code.name, detail=error.detail
                )
            return error

    def _unneeded(self, round_: _Round, outcome: Outcome) -> None:
        if isinstance(outcome, Granted):
            round_.spare[outcome.leader] = outcome.grant.attempt
            self.release(outcome)

    async def _release(self, granted: Granted) -> None:
        """One try: unheard, the reservation ends by itself."""
        request = ReleaseRequest(granted.grant.job, granted.grant.grant_id)
        with suppress(TetherError), trio.move_on_after(self._settings.release_s):
            await self.reach(granted.address)
            await self._rpc.ask(granted.grant.worker, RELEASE, request, timeout_s=self._settings.release_s)
