"""The caller's side: a session to one peer, which redials when its stream breaks, and the calls in it.

new ──dial──> carried ──stream broke──> detached ──redialled within resume_s──> carried
 └─ refused: calls fail at once             │ no call left, the peer knows nothing of it, or time is up
                                            └──> ended: calls fail with CALL_LOST
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final

import structlog
import trio

from p2p.errors import CALL_LOST, CAPACITY, FRAME_INVALID, FRAME_TOO_LARGE, UNREACHABLE, TetherError
from p2p.frames import FrameReader
from p2p.identity import PeerId
from p2p.rpc.channel import Channel, dismissed_by, hang_up
from p2p.rpc.credit import Pool
from p2p.rpc.deadlines import Deadlines
from p2p.rpc.frames import (
    VERSION,
    Block,
    Cancel,
    Credit,
    Data,
    End,
    Failed,
    Hello,
    Last,
    Numbered,
    Open,
    Part,
    pack,
    unpack,
)
from p2p.rpc.latency import Latency
from p2p.rpc.limits import RpcLimits
from p2p.rpc.metrics import RpcMetrics
from p2p.rpc.outgoing import OutgoingCall
from p2p.transport import Stream, refused

_log: Final = structlog.get_logger()

Dial = Callable[[bool], Awaitable[Stream]]
"""Open a stream to the session's peer; True: connect first, the connection may be gone."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Which session of which peer. instance, serial: of this node's start, and of the session among all of that."""

    peer: PeerId
    priority: int
    instance: bytes
    serial: int


@dataclass(frozen=True, slots=True)
class Shared:
    """What a session shares with others: a peer's pool and latency, a node's deadlines."""

    pool: Pool
    latency: Latency
    deadlines: Deadlines
    limits: RpcLimits
    metrics: RpcMetrics


@dataclass(frozen=True, slots=True)
class _Resumed:
    stream: Stream
    reader: FrameReader
    received: int


class CallerSession:
    """All calls of one lane to one peer."""

    def __init__(self, lane: Lane, dial: Dial, shared: Shared) -> None:
        self.priority = lane.priority
        self.pool = shared.pool
        self.deadlines = shared.deadlines
        self.limits = shared.limits
        self.metrics = shared.metrics
        self.channel = Channel(shared.limits, shared.latency)
        self.over = False
        self.used_s = -inf
        self._lane = lane
        self._dial = dial
        self._calls: dict[int, OutgoingCall] = {}
        self._last_number = 0
        self._pause = trio.CancelScope()

    @property
    def last_use(self) -> float:
        return inf if self._calls else self.used_s

    # ── For the calls ────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, method: str, request: bytes, timeout_s: float) -> OutgoingCall:
        """timeout_s: inf for none. Raises TetherError(FRAME_TOO_LARGE | CAPACITY)."""
        limits, channel = self.limits, self.channel
        if len(request) > limits.message_bytes:
            detail = f"The request has {len(request)} bytes; {limits.message_bytes} are allowed."
            raise TetherError(FRAME_TOO_LARGE, detail)
        if channel.outbox.backlog_bytes + limits.part_bytes > limits.backlog_bytes // 2:
            detail = "Too much is waiting for this peer."
            raise TetherError(CAPACITY, detail, retry_after_s=limits.capacity_retry_s)
        self._last_number = number = self._last_number + 1
        call = OutgoingCall(self, number, method, request, timeout_s)
        first = call.first_part
        timeout_ms = None if timeout_s == inf else max(0, round(timeout_s * 1000))
        channel.outbox.put(Open(number, method, timeout_ms, call.credit, call.rest, first), len(first))
        if self._calls:
            channel.write_soon()  # in company a call waits for others that open in the same turn of the loop
        else:
            channel.flush()
        self._calls[number] = call
        self.used_s = call.started
        self.metrics.call_started("caller", method)
        return call

    def cancel(self, call: OutgoingCall) -> None:
        """Nobody waits for this call any more; what is still on its way will be late."""
        if self._calls.pop(call.number, None) is None:
            return
        self.channel.outbox.stop(call)
        if not self.channel.outbox.withdraw(call.number):
            self.channel.send(Cancel(call.number))

    # ── What the peer sends ──────────────────────────────────────────────────────────────────────────────────────

    def _take(self, bodies: list[bytes]) -> None:
        channel = self.channel
        for body in bodies:
            for frame in channel.take(body):
                channel.received += 1
                self._deliver(frame)
        channel.flush()

    def _deliver(self, frame: Numbered) -> None:
        number = frame.call
        call = self._calls.get(number)
        if call is None:
            if number > self._last_number:
                raise TetherError(FRAME_INVALID, f"Call {number} was never opened.")
            return  # it is over on this side, and the frame is late
        match frame:
            case Last(message=message):
                del self._calls[number]
                call.arrived(message)
                call.ended(None)
            case Data(message=message):
                call.arrived(message)
            case Part(part=part, rest=rest):
                call.part_arrived(part, rest)
            case Credit(amount=amount):
                call.credited(amount)
            case End():
                self._ended(call, None)
            case Failed(error=error):
                self._ended(call, TetherError.from_wire(error))
            case _:
                raise TetherError(FRAME_INVALID, "Only a caller sends that.")

    def _ended(self, call: OutgoingCall, failure: TetherError | None) -> None:
        del self._calls[call.number]
        self.channel.outbox.stop(call)
        call.ended(failure)

    # ── The streams ──────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Carry the calls until none is left when a stream breaks, or until they are lost."""
        end = TetherError(CALL_LOST, "This node is shutting down.")
        try:
            end = await self._run()
            if end.code not in (UNREACHABLE, CALL_LOST):
                _log.warning("rpc.session_ended", peer=self._lane.peer, code=end.code.name, detail=end.detail)
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
        reader = FrameReader(stream, self.limits.block_bytes)
        verdict = await self.channel.carry(
            stream, partial(reader.feed, self._take), greeting=self._hello(), peer_received=0
        )
        while verdict.code is UNREACHABLE:
            if not self._calls:
                return verdict
            resumed = await self._resume()
            if isinstance(resumed, TetherError):
                return resumed
            verdict = await self.channel.carry(
                resumed.stream,
                partial(resumed.reader.feed, self._take),
                greeting=b"",
                peer_received=resumed.received,
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
                reader = FrameReader(stream, self.limits.block_bytes)
                await stream.write(self._hello())
                received = await _welcome(reader)
                self.channel.heard = True
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
        lane, channel = self._lane, self.channel
        return pack(
            Hello(VERSION, lane.instance, lane.serial, lane.priority, channel.heard, channel.received)
        )

    def _fail_unsent(self, error: TetherError) -> None:
        """Calls that were opened while there was no stream never left: they fail like any dial, without the wait."""
        for call in list(self._calls.values()):
            if self.channel.outbox.withdraw(call.number):
                del self._calls[call.number]
                call.ended(TetherError.from_wire(error.to_wire()))


async def _welcome(reader: FrameReader) -> int:
    """Read the answer to a greeting: how many frames the peer has. Raises TetherError."""
    body = await reader.one()
    match unpack(body) if body is not None else None:
        case Block(farewell=error) if error is not None:
            raise dismissed_by(error)
        case Block(received=received, frames=[]):
            return received
        case None:
            raise TetherError(UNREACHABLE, "The stream ended before its greeting.")
        case _:
            raise TetherError(FRAME_INVALID, "The peer did not answer the greeting.")
