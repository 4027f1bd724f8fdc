"""What an operator sees of a running daemon, in the shapes that tools rely on (docs/operations.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from p2p.errors import NO_ORCHESTRATOR, TetherError
from p2p.transport import Transport
from tetherd.admin import InviteOrder
from tetherd.gateway.answer import ModelSummary
from tetherd.issuer import IssuerDesk
from tetherd.orchestrator.orchestrator import Orchestrator
from topics.swarm import Swarm
from topics.view import MemberState


@dataclass(frozen=True, slots=True)
class DaemonOperator:
    """Reads the parts of a daemon; changes nothing but by invite and drain. drain returns how many answers run."""

    transport: Transport
    swarm: Swarm
    swarm_id: str
    desk: IssuerDesk
    orchestrator: Orchestrator | None
    http: str
    began: float
    served: Callable[[], list[ModelSummary]]
    state: Callable[[], str]
    start_drain: Callable[[], int]
    where: Callable[[], dict[str, Any]]
    lends: Callable[[], dict[str, Any] | None]
    now: Callable[[], float]

    def status(self) -> dict[str, Any]:
        leaders = self.swarm.leaders()
        return {
            "nodeId": self.transport.peer_id,
            "swarmId": self.swarm_id,
            "region": self.swarm.region,
            "roles": list(self.swarm.roles),
            "http": self.http,
            "state": self.state(),
            "orchestrator": leaders[0] if leaders else None,
            "peers": len(self.transport.peers()),
            **self.where(),
            "models": sorted({model.name for model in self.served()}),
            "lends": self.lends(),
            "ledger": self.orchestrator.ledger() if self.orchestrator else None,
            "uptimeSeconds": round(trio.current_time() - self.began, 1),
        }

    def nodes(self) -> list[dict[str, Any]]:
        members = sorted(self.swarm.view.members(), key=lambda member: (member.presence.region, member.peer))
        return [_node(member, self.now()) for member in members]

    def models(self) -> list[dict[str, Any]]:
        return [
            {
                "name": model.name,
                "version": model.version,
                "digest": model.digest,
                "contextTokens": model.context_tokens,
                "workers": model.workers,
                "loaded": model.loaded,
            }
            for model in self.served()
        ]

    async def jobs(self, limit: int) -> list[dict[str, Any]]:
        return await self._ledger().jobs(limit)

    async def why(self, prefix: str) -> dict[str, Any]:
        return await self._ledger().why(prefix)

    def invite(self, order: InviteOrder) -> dict[str, Any]:
        ticket = self.desk.invite(order.roles, order.regions, ttl_s=order.ttl_s, uses=order.uses)
        return {"ticket": ticket.ticket, "expiresAt": ticket.expires_at}

    def drain(self) -> dict[str, Any]:
        return {"state": "draining", "running": self.start_drain()}

    def _ledger(self) -> Orchestrator:
        if self.orchestrator is None:
            raise TetherError(
                NO_ORCHESTRATOR, "This node keeps no ledger: ask one with the orchestrator role."
            )
        return self.orchestrator


def _node(member: MemberState, now: float) -> dict[str, Any]:
    presence = member.presence
    health = presence.health
    return {
        "nodeId": member.peer,
        "region": presence.region,
        "roles": list(presence.roles),
        "state": presence.state if member.state == "alive" and presence.state != "ready" else member.state,
        "models": [f"{model.name}@{model.version}" for model in health.model_cache] if health else [],
        "load": health.load if health else 0,
        "capacity": health.capacity if health else 0,
        "gpuClass": health.gpu_class if health else None,
        "incarnation": member.incarnation,
        "lastSeenSeconds": round(max(0.0, now - member.last_seen), 1),
        "tokensPerSecond": round(health.tokens_per_second, 1) if health else 0.0,
        "buildTags": msgspec.to_builtins(health.build_tags) if health else {},
    }
