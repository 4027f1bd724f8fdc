"""Telling the ledger how a job ended, behind the client's back: the answer does not wait for it.

A settlement is written down first (journal.py), together with those of the same moment, then told at once. What no
leader takes waits: while the ledger is away one task tries, after growing pauses, and tells the oldest first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, Literal

import structlog
import trio
from msgspec.structs import replace

from p2p.errors import CALL_LOST, DEADLINE, LEDGER_UNAVAILABLE, NO_ORCHESTRATOR, UNREACHABLE, TetherError
from p2p.identity import PeerId
from p2p.messages import SETTLE, Settlement
from p2p.rpc import Rpc
from p2p.transport import PeerAddress
from tetherd.gateway.journal import Debt, Journal
from tetherd.gateway.ports import GatewayMetrics, Swarm
from tetherd.gateway.settings import GatewaySettings

Told = Literal["taken", "away", "stuck"]
"""away: no leader can take any settlement now; stuck: this one fails, another one may not."""
AWAY: Final = frozenset({LEDGER_UNAVAILABLE, NO_ORCHESTRATOR, UNREACHABLE, CALL_LOST, DEADLINE})
MEND_S: Final = 5.0
"""How often a disk that failed is tried again."""
_log: Final = structlog.get_logger()


class Settler:
    """reach: connects to a peer; draw: uniform in [0, 1)."""

    def __init__(
        self,
        rpc: Rpc,
        swarm: Swarm,
        journal: Journal,
        settings: GatewaySettings,
        reach: Callable[[PeerAddress], Awaitable[None]],
        draw: Callable[[], float],
        metrics: GatewayMetrics,
    ) -> None:
        self._rpc = rpc
        self._swarm = swarm
        self._journal = journal
        self._settings = settings
        self._reach = reach
        self._draw = draw
        self._metrics = metrics
        self._left: dict[int, Debt] = {}
        self._changed = trio.Event()
        self._gathering = 0
        self._none_gathering = trio.Event()
        self._hurry = trio.Event()

    async def open(self) -> None:
        """Take over what an earlier life of this node owes."""
        await self._journal.open()
        self._left = {debt.number: debt for debt in self._journal.owed}
        if self._left:
            _log.info("gateway.owes", settlements=len(self._left))
        self._count()

    async def run(self) -> None:
        """Tell what was left over, in its order, until cancelled."""
        tries = 0
        while True:
            with trio.move_on_after(MEND_S):
                while not self._left and not self._journal.failing:
                    await self._changed.wait()
            await self._journal.mend()
            if not self._left:
                tries = 0
                continue
            await trio.sleep(self._backoff(tries))
            tries = 0 if await self._tell_all() else tries + 1

    async def settle(
        self, make: Callable[[], Settlement], leader: PeerId, spare: Mapping[PeerId, int]
    ) -> None:
        """Owe what is made, and tell it soon, unless others have been waiting for longer."""
        self._gathering += 1
        try:
            with trio.move_on_after(self._settings.gather_s, shield=True):
                await self._hurry.wait()
            await self._owe_and_tell(make(), leader, spare)
        finally:
            self._gathering -= 1
            if not self._gathering:
                self._none_gathering.set()
                self._none_gathering = trio.Event()

    async def hurry(self) -> bool:
        """Have told what ended a moment ago. False: there was nothing."""
        if not self._gathering:
            return False
        told = self._none_gathering
        self._hurry.set()
        self._hurry = trio.Event()
        with trio.move_on_after(self._settings.settle_s):
            await told.wait()
        return True

    async def _owe_and_tell(
        self, settlement: Settlement, leader: PeerId, spare: Mapping[PeerId, int]
    ) -> None:
        debt = await self._journal.owe(settlement, leader, spare)
        if self._left or await self._told(debt) != "taken":
            self._left[debt.number] = debt
            _log.warning("gateway.unsettled", job=settlement.job.hex(), end=settlement.end)
        else:
            await self._journal.paid(debt)
        self._count()

    def owe_now(self, settlement: Settlement, leader: PeerId, spare: Mapping[PeerId, int]) -> None:
        """Write it down for this node's next life."""
        self._journal.owe_now(settlement, leader, spare)

    async def settled(self) -> None:
        """Wait until nothing is left over."""
        while self._left:
            await self._changed.wait()

    async def _tell_all(self) -> bool:
        """One round. False: the ledger is away still."""
        for debt in sorted(self._left.values(), key=lambda debt: debt.number):
            told = await self._told(debt)
            if told == "away":
                return False
            if told == "taken":
                await self._journal.paid(debt)
                del self._left[debt.number]
                self._count()
        return not self._left

    async def _told(self, debt: Debt) -> Told:
        """Tell the leader that granted, or else the next one; then those whose grant was not needed."""
        told = await self._told_one(debt)
        if told == "taken":
            for other, attempt in debt.spare.items():
                if other != debt.leader:
                    with suppress(TetherError):
                        await self._tell(other, replace(debt.settlement, attempt=attempt))
        return told

    async def _told_one(self, debt: Debt) -> Told:
        job, told = debt.settlement.job.hex(), "away"
        others = [other for other in self._swarm.leaders() if other != debt.leader]
        for one in (debt.leader, *others):
            try:
                await self._reach(PeerAddress(one, self._swarm.addresses_of(one)))
            except TetherError:
                continue
            try:
                await self._ask(one, debt.settlement)
            except TetherError as error:
                if not error.code.retryable:
                    _log.warning("gateway.settlement_refused", job=job, code=error.code.name)
                    return "taken"
                told = told if error.code in AWAY else "stuck"
            else:
                return "taken"
        return "stuck" if told == "stuck" else "away"

    async def _tell(self, leader: PeerId, settlement: Settlement) -> None:
        await self._reach(PeerAddress(leader, self._swarm.addresses_of(leader)))
        await self._ask(leader, settlement)

    async def _ask(self, leader: PeerId, settlement: Settlement) -> None:
        await self._rpc.ask(leader, SETTLE, settlement, timeout_s=self._settings.settle_s)

    def _count(self) -> None:
        self._metrics.unsettled(len(self._left))
        self._changed.set()
        self._changed = trio.Event()

    def _backoff(self, tried: int) -> float:
        """Full jitter; never so short that a round of refusals is a busy loop."""
        settings = self._settings
        longest = min(settings.settle_pause_s, settings.backoff_base_s * 2.0 ** min(tried, 10))
        return max(0.05, self._draw() * longest)
