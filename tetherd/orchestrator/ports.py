"""What an orchestrator needs of the rest of a node, and what it tells whoever counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from p2p.identity import PeerId
from topics.view import MemberState


class MemberView(Protocol):
    def workers(self, region: str) -> Sequence[MemberState]:
        """Those that serve now: alive, ready, with a health report."""
        ...


class Region(Protocol):
    """`topics.swarm.Swarm`, as far as an orchestrator goes."""

    @property
    def region(self) -> str: ...

    @property
    def view(self) -> MemberView: ...

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]: ...


class OrchestratorMetrics(Protocol):
    """outcome: "granted", or the code of the refusal."""

    def placed(self, outcome: str, seconds: float) -> None: ...

    def waiting(self, requests: int) -> None:
        """How many placements wait for a slot now."""
        ...

    def settled(self, end: str, prompt_tokens: int, tokens: int) -> None: ...

    def dead_lettered(self, jobs: int) -> None: ...


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
