"""Candidates keep one register of tenants: in the database that they share; else each asks the others for theirs, and
joins it."""

from __future__ import annotations

from typing import Final

import structlog
import trio

from p2p.errors import FORBIDDEN, NO_ORCHESTRATOR, TetherError
from p2p.identity import PeerId
from p2p.membership import Member
from p2p.messages import REGISTER, RegisterAnswer, RegisterRequest
from p2p.rpc import Rpc
from p2p.transport import PeerAddress, Transport
from p2p.wire import decode, encode
from tetherd.orchestrator.ports import SwarmView
from tetherd.tenants.desk import TenantDesk
from tetherd.tenants.register import Records

EVERY_S: Final = 2.0
"""How old a revocation may be elsewhere; agreeing costs 40 bytes each way."""
ASK_S: Final = 3.0
FIRST_S: Final = 1.0
"""How long a placement waits for the first word of the others: a new candidate may not know of tenants yet."""

_log: Final = structlog.get_logger()


class Registers:
    def __init__(
        self, me: PeerId, swarm: SwarmView, transport: Transport, rpc: Rpc, desk: TenantDesk
    ) -> None:
        self._me = me
        self._swarm = swarm
        self._transport = transport
        self._rpc = rpc
        self._desk = desk
        self._heard = trio.Event()
        self._answered = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell and ask, until cancelled."""
        self._rpc.serve(REGISTER, self._tell)
        task_status.started()
        while True:
            if not self._desk.shared:
                async with trio.open_nursery() as nursery:
                    for peer in self._swarm.leaders():
                        if peer != self._me:
                            nursery.start_soon(self._ask, peer)
            await self._refresh()
            self._heard.set()
            await trio.sleep(EVERY_S)

    async def _refresh(self) -> None:
        try:
            await self._desk.refresh()
            self._answered = self._answered or self._desk.shared
        except TetherError as error:
            _log.warning("register.not_refreshed", code=error.code.name, detail=error.detail)

    async def heard(self) -> None:
        """Wait until the others were asked once, but not for long.

        Raises TetherError(NO_ORCHESTRATOR) while there are others, none of them has answered yet, and this node knows
        of no tenants: then it cannot tell whether a request needs a key, and says so rather than let everybody in.
        """
        with trio.move_on_after(FIRST_S):
            await self._heard.wait()
        alone = self._swarm.leaders() == [self._me]
        if not (alone or self._answered or self._desk.register.tenants):
            detail = "This orchestrator has not heard from the others yet who may ask."
            raise TetherError(NO_ORCHESTRATOR, detail, retry_after_s=EVERY_S)

    async def _ask(self, peer: PeerId) -> None:
        try:
            known = self._swarm.view.get(peer)
            await self._transport.connect(PeerAddress(peer, known.presence.addresses if known else ()))
            asked = RegisterRequest(self._desk.register.digest())
            answer = await self._rpc.ask(peer, REGISTER, asked, timeout_s=ASK_S)
            self._answered = True
            if answer.records:
                await self._desk.take(decode(answer.records, Records))
                _log.info("register.joined", peer=peer)
        except TetherError as error:
            _log.info("register.not_joined", peer=peer, code=error.code.name)

    async def _tell(self, caller: PeerId, asked: RegisterRequest) -> RegisterAnswer:
        shown = self._transport.admission(caller)
        if not isinstance(shown, Member) or "orchestrator" not in shown.certificate.roles:
            raise TetherError(FORBIDDEN, "Only orchestrators keep the register of tenants.")
        if self._swarm.region not in shown.certificate.regions:
            raise TetherError(
                FORBIDDEN, f"Only orchestrators of region {self._swarm.region} keep its register."
            )
        register = self._desk.register
        return RegisterAnswer(b"" if asked.digest == register.digest() else encode(register.records()))
