"""What an exchange is made from: one request that is ready to be placed, and what all of them share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from p2p.content import SealedInput
from p2p.identity import NodeKey, PeerId
from p2p.messages import JobEnd, Settlement
from tetherd.gateway.answer import ModelSummary, Told
from tetherd.gateway.attempt import Attempts
from tetherd.gateway.placing import Placer
from tetherd.gateway.ports import GatewayMetrics
from tetherd.gateway.refusals import Refusals
from tetherd.gateway.settings import GatewaySettings
from tetherd.identity.tokens import TokenProof
from tetherd.tenants.keys import KeyProof


@dataclass(frozen=True, slots=True)
class Closing:
    """How a job ended. make: its settlement, which has signatures to check and to give: after the client's answer."""

    job: bytes
    end: JobEnd
    make: Callable[[], Settlement]


Settle = Callable[[Closing, PeerId, Mapping[PeerId, int]], None]
"""Tell the ledger later: how it ended, the leader that granted, and whose grant was not needed."""


@dataclass(frozen=True, slots=True)
class Order:
    """A request, once its model, its job and its keys are known. created: unix seconds."""

    job: bytes
    tenant: str
    retry_token: str
    model: ModelSummary
    content: SealedInput
    request_mac: bytes
    max_prompt_tokens: int
    max_tokens: int
    traceparent: str
    created: float
    key: KeyProof | TokenProof | None = None
    input: bytes = b""
    seed_given: bool = False
    told: Told | None = None

    @property
    def asker(self) -> tuple[str, str]:
        return self.tenant, self.key.key_id if self.key else ""

    @property
    def worst_tokens(self) -> int:
        return self.max_prompt_tokens + self.max_tokens


@dataclass(frozen=True, slots=True)
class Parts:
    """What all exchanges of a gateway share. draw: uniform in [0, 1).

    hurry: settles what has just ended; False: there was nothing.
    """

    key: NodeKey
    placer: Placer
    attempts: Attempts
    settings: GatewaySettings
    metrics: GatewayMetrics
    settle: Settle
    hurry: Callable[[], Awaitable[bool]]
    draw: Callable[[], float]
    refusals: Refusals
