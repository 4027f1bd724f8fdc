"""A call as its caller holds it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from p2p.errors import CANCELLED, FLOW_VIOLATION, TetherError
from p2p.rpc.channel import Queued
from p2p.rpc.frames import Credit, Open, weight
from p2p.rpc.metrics import OK

if TYPE_CHECKING:
    from p2p.rpc.caller import CallerSession

CREDIT_RETURNS: Final = 4
"""Credit goes back by quarters of a window: fewer frames than one a message, and never a stall."""


class OutgoingCall:
    """opened: its OPEN frame on the way. What was answered before an end or a failure is read before that.

    code: how the call ended so far, for the metrics.
    """

    def __init__(self, session: CallerSession, frame: Open, opened: Queued) -> None:
        self.number = frame.call
        self.method = frame.method
        self.priority = frame.priority
        self.opened = opened
        self.code = CANCELLED.name
        self._sent_bytes = len(frame.request)
        self._received_bytes = 0
        self._session = session
        self._messages: deque[bytes] = deque()
        self._ended = False
        self._failure: TetherError | None = None
        self._changed = trio.Event()
        self._outstanding = 0
        self._owed = 0
        self._started = trio.current_time()

    async def receive(self) -> bytes | None:
        """The next answer; None at the end. Raises TetherError with what the peer or the network did."""
        await trio.lowlevel.checkpoint()
        while not self._messages:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return None
            await self._changed.wait()
            self._changed = trio.Event()
        message = self._messages.popleft()
        self._session.consumed(message)
        self._owed += weight(message)
        if self._owed >= self._session.limits.call_credit_bytes // CREDIT_RETURNS and not self._ended:
            self._outstanding -= self._owed
            self._session.channel.send(Credit(self.number, self._owed), self.priority)
            self._owed = 0
        return message

    def close(self) -> None:
        """Nobody reads on: cancel it at the other side, unless it has ended."""
        self._session.closed(self, cancelled=not self._ended)
        for message in self._messages:
            self._session.consumed(message)
        self._messages.clear()
        self._session.metrics.call_ended(
            "caller",
            self.method,
            self.code,
            seconds=trio.current_time() - self._started,
            sent_bytes=self._sent_bytes,
            received_bytes=self._received_bytes,
        )

    def arrived(self, message: bytes) -> None:
        """Raises TetherError(FLOW_VIOLATION) for bytes without credit."""
        if self._outstanding >= self._session.limits.call_credit_bytes:
            raise TetherError(FLOW_VIOLATION, f"Call {self.number} was answered beyond its credit.")
        self._outstanding += weight(message)
        self._received_bytes += len(message)
        self._messages.append(message)
        self._changed.set()

    def ended(self, failure: TetherError | None) -> None:
        self._ended = True
        self._failure = failure
        self.code = failure.code.name if failure else OK
        self._changed.set()
