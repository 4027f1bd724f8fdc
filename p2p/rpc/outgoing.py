"""A call as its caller holds it."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final

import trio

from p2p.errors import CANCELLED, DEADLINE, FLOW_VIOLATION, FRAME_INVALID, FRAME_TOO_LARGE, TetherError
from p2p.rpc.bell import Bell
from p2p.rpc.frames import MESSAGE_WEIGHT, Credit, More, Numbered
from p2p.rpc.metrics import OK

if TYPE_CHECKING:
    from p2p.rpc.caller import CallerSession

_CANCELLED: Final = CANCELLED.name


class OutgoingCall:
    """What was answered before an end or a failure is read before that.

    code: how the call ended so far, for the metrics. request: whole; offset: what of it is out or queued.
    """

    __slots__ = (
        "_bell",
        "_deadline",
        "_ended",
        "_failure",
        "_messages",
        "_missing",
        "_owing",
        "_partial",
        "_received_bytes",
        "_request",
        "_sent",
        "_session",
        "_window",
        "code",
        "method",
        "number",
        "started",
    )

    def __init__(
        self, session: CallerSession, number: int, method: str, request: bytes, timeout_s: float
    ) -> None:
        self.number = number
        self.method = method
        self.code = _CANCELLED
        self._session = session
        self._request = request
        self._sent = min(len(request), session.limits.part_bytes)
        self._owing = 0
        self._window = session.pool.open(session.priority, self._credit)
        self._messages: deque[bytes] = deque()
        self._partial: bytearray | None = None
        self._missing = 0
        self._received_bytes = 0
        self._ended = False
        self._failure: TetherError | None = None
        self._bell = Bell()
        self.started = now = trio.current_time()
        self._deadline = session.deadlines.add(now + timeout_s, self._expire) if timeout_s < inf else 0

    @property
    def credit(self) -> int:
        """What the callee may answer from the beginning."""
        return self._window.size

    @property
    def first_part(self) -> bytes:
        return self._request if self._sent == len(self._request) else self._request[: self._sent]

    @property
    def rest(self) -> int:
        return len(self._request) - self._sent

    async def receive(self) -> bytes | None:
        """The next answer; None at the end. Raises TetherError with what the peer or the network did.

        A checkpoint only if it has to wait, which it does for a window at the latest.
        """
        while not self._messages:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return None
            if self._partial is not None:
                self._window.want(self._missing)
            await self._bell.wait()
        message = self._messages.popleft()
        if not self._ended:
            self._window.consume(len(message) + MESSAGE_WEIGHT)
        return message

    def close(self) -> None:
        """Nobody reads on: cancel it at the other side, unless it has ended."""
        self._window.close()
        self._session.deadlines.remove(self._deadline)
        if not self._ended:
            self._session.cancel(self)
        self._session.metrics.call_ended(
            "caller",
            self.method,
            self.code,
            seconds=trio.current_time() - self.started,
            sent_bytes=self._sent,
            received_bytes=self._received_bytes,
        )

    # ── For the session ──────────────────────────────────────────────────────────────────────────────────────────

    def arrived(self, message: bytes) -> None:
        """A message, or what was missing of one. Raises TetherError for what is without credit or out of place."""
        self._window.arrive(len(message) + MESSAGE_WEIGHT)
        self._received_bytes += len(message)
        if self._partial is not None:
            if len(message) != self._missing:
                raise TetherError(FRAME_INVALID, f"Call {self.number} was answered with half a message.")
            message = bytes(self._partial + message)
            self._partial = None
        self._messages.append(message)
        self._bell.ring()

    def part_arrived(self, part: bytes, rest: int) -> None:
        self._window.arrive(len(part))
        self._received_bytes += len(part)
        if self._partial is None:
            self._partial = bytearray()
            self._missing = len(part) + rest
            if self._missing > self._session.limits.message_bytes:
                raise TetherError(FRAME_TOO_LARGE, f"An answer of {self._missing} bytes was announced.")
        self._partial += part
        self._missing -= len(part)
        if self._missing != rest:
            raise TetherError(FRAME_INVALID, f"The parts of call {self.number} do not make a message.")
        self._bell.ring()

    def ended(self, failure: TetherError | None) -> None:
        self._ended = True
        self._failure = failure
        self._partial = None
        self.code = failure.code.name if failure else OK
        self._bell.ring()

    def credited(self, amount: int) -> None:
        """The callee has room for more of the request. Raises TetherError(FLOW_VIOLATION)."""
        self._owing += amount
        if self._owing > self.rest:
            raise TetherError(FLOW_VIOLATION, f"Call {self.number} has no more to ask.")
        self._session.channel.outbox.pour(self)
        self._session.channel.write_soon()

    def next_part(self) -> tuple[Numbered, int] | None:
        """Implements `Pour`."""
        size = min(self._owing, self._session.limits.part_bytes)
        if not size:
            return None
        part = self._request[self._sent : self._sent + size]
        self._sent += size
        self._owing -= size
        return More(self.number, part), size

    def _credit(self, amount: int) -> None:
        if not self._ended:
            self._session.channel.send(Credit(self.number, amount))

    def _expire(self) -> None:
        """The deadline passed here: the callee has its own, and is told all the same."""
        if not self._ended:
            self._session.cancel(self)
            self.ended(TetherError(DEADLINE, f"{self.method!r} was not answered in time."))
