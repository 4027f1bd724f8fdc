"""The caller's side: a session to one peer, which redials when its stream breaks, and the calls in it.

new ──dial──> carried ──stream broke──> detached ──redialled within resume_s──> carried
 └─ refused: calls fail at once             │ no call left, the peer knows nothing of it, or time is up
                                            └──> ended: calls fail with CALL_LOST
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from p2p.errors import (
    CALL_LOST,
    CAPACITY,
    FLOW_VIOLATION,
    FRAME_INVALID,
    FRAME_TOO_LARGE,
    UNREACHABLE,
    TetherError,
)
from p2p.frames import FrameReader
from p2p.identity import PeerId
from p2p.rpc.channel import Channel, dismissed_by, hang_up
from p2p.rpc.frames import (
    VERSION,
    Cancel,
    Credit,
    Data,
    End,
    Failed,
    Goodbye,
    Hello,
    Last,
    Numbered,
    Open,
    Welcome,
    pack,
    unpack,
    weight,
)
from p2p.rpc.limits import RpcLimits
from p2p.rpc.metrics import RpcMetrics
from p2p.rpc.outgoing import CREDIT_RETURNS, OutgoingCall
from p2p.transport import Stream, refused

_log: Final = structlog.get_logger()

Dial = Callable[[bool], Awaitable[Stream]]
"""Open a stream to the session's peer; True: connect first, the connection may be gone."""


@dataclass(frozen=True, slots=True)
class _Resumed:
    stream: Stream
    reader: FrameReader
    received: int


class CallerSession:
    """All calls of one lane to one peer. serial: distinguishes this node's sessions; instance: this node's start."""

    def __init__(
        self, peer: PeerId, dial: Dial, instance: bytes, serial: int, limits: RpcLimits, metrics: RpcMetrics
    ) -> None:
        self.peer = peer
        self.limits = limits
        self.metrics = metrics
        self.channel = Channel(limits, self._deliver)
        self.over = False
        self._dial = dial
        self._instance = instance
        self._serial = serial
        self._calls: dict[int, OutgoingCall] = {}
        self._last_number = 0
        self._outstanding = 0
        self._owed = 0
        self._pause = trio.CancelScope()

    # ── For the calls ────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, method: str, priority: int, request: bytes, timeout_s: float | None) -> OutgoingCall:
        """Raises TetherError(FRAME_TOO_LARGE | CAPACITY)."""
        if len(request) > self.limits.message_bytes:
            detail = f"The request has {len(request)} bytes; {self.limits.message_bytes} are allowed."
            raise TetherError(FRAME_TOO_LARGE, detail)
        if self.channel.backlog_bytes + len(request) > self.limits.backlog_bytes // 2:
            raise TetherError(
                CAPACITY, "Too much is waiting for this peer.", retry_after_s=self.limits.capacity_retry_s
            )
        self._last_number += 1
        number = self._last_number
        timeout_ms = None if timeout_s is None else max(0, round(timeout_s * 1000))
        credit = self.limits.call_credit_bytes
        frame = Open(number, os.urandom(16), method, priority, timeout_ms, credit, request)
        call = OutgoingCall(self, frame, self.channel.send(frame, priority))
        self._calls[number] = call
        self.metrics.call_started("caller", method)
        return call

    def consumed(self, message: bytes) -> None:
        """A message left memory: its weight goes back to the session's credit when enough has come together."""
        self._owed += weight(message)
        if self._owed >= self.limits.lane_credit_bytes // CREDIT_RETURNS:
            self._outstanding -= self._owed
            self.channel.send(Credit(0, self._owed), 0)
            self._owed = 0

    def closed(self, call: OutgoingCall, *, cancelled: bool) -> None:
        self._calls.pop(call.number, None)
        if cancelled and not self.channel.withdraw(call.opened) and not self.over:
            self.channel.send(Cancel(call.number), call.priority)

    # ── What the peer sends ──────────────────────────────────────────────────────────────────────────────────────

    def _deliver(self, frame: Numbered) -> None:
        match frame:
            case Data(call=number, message=message) | Last(call=number, message=message):
                self._arrived(number, message)
                if isinstance(frame, Last):
                    self._ended(number, None)
            case End(call=number):
                self._ended(number, None)
            case Failed(call=number, error=error):
                self._ended(number, TetherError.from_wire(error))
            case _:
                raise TetherError(FRAME_INVALID, "Only a caller sends that.")

    def _arrived(self, number: int, message: bytes) -> None:
        if self._outstanding >= self.limits.lane_credit_bytes:
            raise TetherError(FLOW_VIOLATION, "The session was answered beyond its credit.")
        self._outstanding += weight(message)
        call = self._known(number)
        if call is None:
            self.consumed(message)
        else:
            call.arrived(message)

    def _ended(self, number: int, failure: TetherError | None) -> None:
        call = self._known(number)
        if call is not None:
            del self._calls[number]
            call.ended(failure)

    def _known(self, number: int) -> OutgoingCall | None:
        """None: the call is over on this side and the frame is late. Raises TetherError(FRAME_INVALID)."""
        if number > self._last_number:
            raise TetherError(FRAME_INVALID, f"Call {number} was never opened.")
        return self._calls.get(number)

    # ── The streams ──────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Carry the calls until none is left when a stream breaks, or until they are lost."""
        end = TetherError(CALL_LOST, "This node is shutting down.")
        try:
            end = await self._run()
            if end.code not in (UNREACHABLE, CALL_LOST):
                _log.warning("rpc.session_ended", peer=self.peer, code=end.code.name, detail=end.detail)
        finally:
            self.over = True
            for call in self._calls.values():
                call.ended(TetherError.from_wire(end.to_wire()))
            self._calls.clear()

    async def _run(self) -> TetherError:
        try:
            stream = await self._dial(False)
        except TetherError as error:
            return error
        reader = FrameReader(stream, self.limits.frame_bytes)
        verdict = await self.channel.carry(stream, reader, greeting=self._hello(), peer_received=0)
        while verdict.code is UNREACHABLE:
            if not self._calls:
                return verdict
            resumed = await self._resume()
            if isinstance(resumed, TetherError):
                return resumed
            verdict = await self.channel.carry(
                resumed.stream, resumed.reader, greeting=b"", peer_received=resumed.received
            )
        return verdict

    async def _resume(self) -> _Resumed | TetherError:
        """Dial until a stream goes on, within resume_s; refused_grace_s if the peer's machine refuses all the time."""
        lost_at = trio.current_time() + self.limits.resume_s
        refused_until: float | None = None
        longest_s = self.limits.backoff_base_s
        while True:
            timeout_at = min(trio.current_time() + self.limits.dial_s, lost_at)
            resumed = await self._try_to_resume(timeout_at)
            if not isinstance(resumed, TetherError) or resumed.code is not UNREACHABLE:
                return resumed
            self._fail_unsent(resumed)
            now = trio.current_time()
            refused_until = (refused_until or now + self.limits.refused_grace_s) if refused(resumed) else None
            give_up_at = min(lost_at, refused_until or lost_at)
            if not self._calls or now >= give_up_at:
                return TetherError(CALL_LOST, f"The connection broke and did not come back. {resumed.detail}")
            with trio.CancelScope(
                deadline=min(now + random.uniform(0, longest_s), give_up_at)
            ) as self._pause:
                await trio.sleep_forever()
            longest_s = min(2 * longest_s, self.limits.backoff_cap_s)

    async def _try_to_resume(self, timeout_at: float) -> _Resumed | TetherError:
        error = TetherError(UNREACHABLE, "The dial timed out.")
        stream: Stream | None = None
        with trio.CancelScope(deadline=timeout_at):
            try:
                stream = await self._dial(True)
                reader = FrameReader(stream, self.limits.frame_bytes)
                await stream.write(self._hello())
                received = await _welcome(reader)
                self.channel.welcomed = True
                return _Resumed(stream, reader, received)
            except TetherError as caught:
                error = caught
        if stream is not None:
            await hang_up(stream, None, self.limits)
        return error

    def peer_changed(self, up: bool) -> None:
        """The transport says that the peer is there, or gone."""
        if up:
            self._pause.cancel()
        else:
            self.channel.interrupt()

    def _hello(self) -> bytes:
        return pack(
            Hello(
                VERSION,
                self._instance,
                self._serial,
                self.channel.welcomed,
                self.channel.received,
                self.limits.lane_credit_bytes,
            )
        )

    def _fail_unsent(self, error: TetherError) -> None:
        """Calls that were opened while there was no stream never left: they fail like any dial, without the wait."""
        for call in list(self._calls.values()):
            if self.channel.withdraw(call.opened):
                del self._calls[call.number]
                call.ended(TetherError.from_wire(error.to_wire()))


async def _welcome(reader: FrameReader) -> int:
    """Read the answer to a greeting: how many frames the peer has. Raises TetherError."""
    body = await reader.one()
    match unpack(body) if body is not None else None:
        case Welcome(received=received):
            return received
        case Goodbye(error=error):
            raise dismissed_by(error)
        case None:
            raise TetherError(UNREACHABLE, "The stream ended before its greeting.")
        case _:
            raise TetherError(FRAME_INVALID, "The peer did not answer the greeting.")
