"""Telling the ledger how a job ended, behind the client's back: the answer does not wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

import structlog
import trio
from msgspec.structs import replace

from p2p.errors import TetherError
from p2p.identity import PeerId
from p2p.messages import SETTLE, Settlement
from p2p.rpc import Rpc
from p2p.transport import PeerAddress
from tetherd.gateway.ports import Swarm
from tetherd.gateway.settings import GatewaySettings

_log: Final = structlog.get_logger()


class Settler:
    """reach: connects to a peer; draw: uniform in [0, 1)."""

    def __init__(
        self,
        rpc: Rpc,
        swarm: Swarm,
        settings: GatewaySettings,
        reach: Callable[[PeerAddress], Awaitable[None]],
        draw: Callable[[], float],
    ) -> None:
        self._rpc = rpc
        self._swarm = swarm
        self._settings = settings
        self._reach = reach
        self._draw = draw

    async def settle(self, settlement: Settlement, leader: PeerId, spare: Mapping[PeerId, int]) -> None:
        """Tell the leader that granted, or else the next one; then those whose grant of the job was not needed."""
        for tried in range(self._settings.settle_tries):
            if await self._told_one(settlement, leader):
                break
            await trio.sleep(self._backoff(tried))
        else:
            _log.warning("gateway.unsettled", job=settlement.job.hex(), end=settlement.end)
        for other, attempt in spare.items():
            if other != leader:
                with suppress(TetherError):
                    await self._tell(other, replace(settlement, attempt=attempt))

    async def _told_one(self, settlement: Settlement, leader: PeerId) -> bool:
        others = [other for other in self._swarm.leaders() if other != leader]
        for one in (leader, *others):
            try:
                await self._tell(one, settlement)
            except TetherError as error:
                if not error.code.retryable:
                    _log.warning("gateway.settlement_refused", job=settlement.job.hex(), code=error.code.name)
                    return True
            else:
                return True
        return False

    async def _tell(self, leader: PeerId, settlement: Settlement) -> None:
        await self._reach(PeerAddress(leader, self._swarm.addresses_of(leader)))
        await self._rpc.ask(leader, SETTLE, settlement, timeout_s=self._settings.settle_s)

    def _backoff(self, tried: int) -> float:
        settings = self._settings
        return self._draw() * float(min(settings.backoff_cap_s * 2, settings.backoff_base_s * 2.0**tried))
