"""A tenant's catalogue: what is served, without what the models' policies keep from it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import structlog
import trio

from p2p.errors import TetherError
from p2p.rpc import Rpc
from p2p.visible import MAX_MODELS, VISIBLE, VisibleRequest
from tetherd.gateway.answer import ModelSummary
from tetherd.gateway.ports import Swarm

ASK_S: Final = 1.0
FRESH_S: Final = 5.0
"""How late a changed policy shows in a list."""
TENANTS: Final = 256

_log: Final = structlog.get_logger()


class Catalogue:
    """Asks the leader, and remembers what it said for a while. While no leader answers, all is shown: requests for
    what a policy forbids are refused by whoever leads then."""

    def __init__(self, rpc: Rpc, swarm: Swarm) -> None:
        self._rpc = rpc
        self._swarm = swarm
        self._known: OrderedDict[str, tuple[float, tuple[str, ...], frozenset[str]]] = OrderedDict()

    async def of(self, tenant: str, served: Sequence[ModelSummary]) -> list[ModelSummary]:
        names = tuple(sorted({model.name for model in served}))[:MAX_MODELS]
        hidden = await self._hidden(tenant, names)
        return [model for model in served if model.name not in hidden]

    async def _hidden(self, tenant: str, names: tuple[str, ...]) -> frozenset[str]:
        asked_s, asked, hidden = self._known.get(tenant, (-FRESH_S, (), frozenset()))
        if asked == names and trio.current_time() - asked_s < FRESH_S:
            return hidden
        for leader in self._swarm.leaders()[:1]:
            try:
                wanted = VisibleRequest(tenant, names)
                answer = await self._rpc.ask(leader, VISIBLE, wanted, timeout_s=ASK_S)
            except TetherError as error:
                _log.info("catalogue.not_filtered", leader=leader, code=error.code.name)
            else:
                hidden = frozenset(answer.hidden)
                self._known[tenant] = trio.current_time(), names, hidden
                self._known.move_to_end(tenant)
                if len(self._known) > TENANTS:
                    self._known.popitem(last=False)
                return hidden
        return hidden
