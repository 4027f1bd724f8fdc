"""What files on their way tell the daemon's metrics."""

from __future__ import annotations

from typing import Literal, Protocol

Kind = Literal["peer", "origin"]


class ShelfMetrics(Protocol):
    def lent(self, count: int) -> None:
        """So many bytes went to a peer."""
        ...

    def fetched(self, kind: Kind, count: int) -> None:
        """So many bytes came and were what was signed."""
        ...

    def lied(self, kind: Kind) -> None:
        """A source sent what was not signed."""
        ...


class NoMetrics:
    def lent(self, count: int) -> None:
        pass

    def fetched(self, kind: Kind, count: int) -> None:
        pass

    def lied(self, kind: Kind) -> None:
        pass
