"""A call as its handler holds it."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio

from p2p.errors import FRAME_TOO_LARGE, TetherError
from p2p.rpc.frames import Data, Open, weight

if TYPE_CHECKING:
    from p2p.rpc.callee import CalleeSession


class IncomingCall:
    """window: the credit it began with; lost: why nobody hears it any more; scope: its handler runs in it."""

    def __init__(self, session: CalleeSession, frame: Open) -> None:
        self.peer = session.peer
        self.number = frame.call
        self.method = frame.method
        self.request = frame.request
        self.correlation_id = frame.correlation.hex()
        self.credit = self.window = min(frame.credit, session.limits.call_credit_bytes)
        self.credited = trio.lowlevel.ParkingLot()
        self.sent_bytes = 0
        self.priority = frame.priority
        self.lost: TetherError | None = None
        timeout_s = inf if frame.timeout_ms is None else frame.timeout_ms / 1000
        self.scope = trio.CancelScope(deadline=trio.current_time() + timeout_s)
        self._session = session

    async def send(self, message: bytes) -> None:
        """Answer, once there is credit. Raises TetherError(CANCELLED | CALL_LOST | FRAME_TOO_LARGE)."""
        await self.await_credit(message)
        self._session.send(self, Data(self.number, message))

    async def await_credit(self, message: bytes) -> None:
        """Wait until a message may go, and take its weight from the call's and the session's credit."""
        limits = self._session.limits
        if len(message) > limits.message_bytes:
            detail = f"The answer has {len(message)} bytes; {limits.message_bytes} are allowed."
            raise TetherError(FRAME_TOO_LARGE, detail)
        await trio.lowlevel.checkpoint()
        while self.lost is None and (self.credit <= 0 or self._session.credit <= 0):
            await (self.credited if self.credit <= 0 else self._session.credited).park()
        if self.lost is not None:
            raise self.lost
        self.credit -= weight(message)
        self._session.credit -= weight(message)
        self.sent_bytes += len(message)

    def cancel(self, why: TetherError) -> None:
        """End the handler, and any waiting for credit that it has shielded."""
        self.lost = why
        self.scope.cancel()
        self.credited.unpark_all()
        self._session.credited.unpark_all()
