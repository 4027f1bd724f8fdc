"""What calls tell whoever counts them."""

from __future__ import annotations

from typing import Final, Literal, Protocol

OK: Final = "OK"
"""The code of a call that ended well; every other is a name of the error catalogue."""

Side = Literal["caller", "callee"]


class RpcMetrics(Protocol):
    """side: which end of the call this node is. Methods are only those that this node knows."""

    def call_started(self, side: Side, method: str) -> None: ...

    def call_ended(
        self, side: Side, method: str, code: str, *, seconds: float, sent_bytes: int, received_bytes: int
    ) -> None: ...


class NoMetrics:
    """Counts nothing."""

    def call_started(self, side: Side, method: str) -> None:
        pass

    def call_ended(
        self, side: Side, method: str, code: str, *, seconds: float, sent_bytes: int, received_bytes: int
    ) -> None:
        pass
