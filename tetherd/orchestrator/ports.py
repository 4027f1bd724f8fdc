"""What an orchestrator needs of the rest of a node, and what it tells whoever counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from p2p.identity import PeerId
from topics.view import MemberState


class Members(Protocol):
    """`topics.view.View`, as far as an orchestrator goes."""

    def get(self, peer: PeerId) -> MemberState | None: ...

    def members(self, region: str | None = None) -> Sequence[MemberState]:
        """All of a region, the dead among them."""
        ...

    def workers(self, region: str) -> Sequence[MemberState]:
        """Those that serve now: alive, ready, with a health report."""
        ...


class SwarmView(Protocol):
    """`topics.swarm.Swarm`, as far as an orchestrator goes."""

    @property
    def region(self) -> str: ...

    @property
    def view(self) -> Members: ...

    def leaders(self, region: str | None = None) -> list[PeerId]:
        """Best first; this node may be among them."""
        ...

    def report_unreachable(self, peer: PeerId) -> None:
        """A call to this peer found nobody: it is passed over until it is heard again."""
        ...


class OrchestratorMetrics(Protocol):
    """outcome: "granted", or the code of the refusal."""

    def placed(self, outcome: str, seconds: float) -> None: ...

    def waiting(self, requests: int) -> None:
        """How many placements wait for a slot now."""
        ...

    def settled(self, end: str, prompt_tokens: int, tokens: int) -> None: ...

    def dead_lettered(self, jobs: int) -> None: ...

    def copied(self, acknowledged: bool) -> None:
        """Whether another candidate had a row in time; else it was accepted on this node's word alone."""
        ...


class NoMetrics:
    """Counts nothing."""

    def placed(self, outcome: str, seconds: float) -> None:
        pass

    def waiting(self, requests: int) -> None:
        pass

    def settled(self, end: str, prompt_tokens: int, tokens: int) -> None:
        pass

    def dead_lettered(self, jobs: int) -> None:
        pass

    def copied(self, acknowledged: bool) -> None:
        pass
