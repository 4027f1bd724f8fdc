"""What the gateway needs of the rest of a node, and what it tells whoever counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from p2p.identity import PeerId
from p2p.messages import Presence
from p2p.transport import PeerAddress

Hop = Literal["place", "open"]


class KnownWorker(Protocol):
    @property
    def peer(self) -> PeerId: ...

    @property
    def presence(self) -> Presence: ...


class Workers(Protocol):
    def workers(self, region: str) -> Sequence[KnownWorker]:
        """Those that serve now: alive, ready, with a health report."""
        ...


class Swarm(Protocol):
    """`topics.swarm.Swarm`, as far as a gateway goes."""

    @property
    def region(self) -> str: ...

    @property
    def view(self) -> Workers: ...

    def leaders(self, region: str | None = None) -> list[PeerId]:
        """Best first; this node may be among them."""
        ...

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]: ...

    async def find_workers(self, model: str, version: str, region: str | None = None) -> list[PeerAddress]:
        """Look up on the DHT who serves a model; those that were reached."""
        ...

    def report_unreachable(self, peer: PeerId) -> None: ...


class GatewayMetrics(Protocol):
    """outcome, cause: "done", "cancelled", or the code of an error."""

    def request_started(self) -> None: ...

    def request_ended(self, outcome: str) -> None: ...

    def attempt_ended(self, cause: str) -> None: ...

    def hop(self, hop: Hop, seconds: float) -> None:
        """place: from the question to the grant; open: from the call to the worker's acceptance."""
        ...

    def first_token(self, seconds: float) -> None:
        """Since the request came."""
        ...

    def inter_token(self, seconds: float) -> None:
        """One token's share of the time between two chunks."""
        ...

    def receipt_refused(self) -> None:
        """A worker's receipt did not agree with what it sent."""
        ...

    def unsettled(self, jobs: int) -> None:
        """How many settlements the ledger has not taken yet."""
        ...


class NoMetrics:
    """Counts nothing."""

    def request_started(self) -> None:
        pass

    def request_ended(self, outcome: str) -> None:
        pass

    def attempt_ended(self, cause: str) -> None:
        pass

    def hop(self, hop: Hop, seconds: float) -> None:
        pass

    def first_token(self, seconds: float) -> None:
        pass

    def inter_token(self, seconds: float) -> None:
        pass

    def receipt_refused(self) -> None:
        pass

    def unsettled(self, jobs: int) -> None:
        pass
