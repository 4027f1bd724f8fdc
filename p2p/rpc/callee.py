"""The callee's side: the sessions of one peer, the calls in them, and what that peer may use here.

greeted ──> carried ──stream broke──> detached ──greeted again within resume_s──> carried
               └─ goodbye, a fault, a new instance of the peer ─┴─ time is up ──> over: handlers are cancelled
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from math import inf
from typing import Any

import trio

from p2p.errors import (
    CALL_LOST,
    CANCELLED,
    CAPACITY,
    FRAME_INVALID,
    FRAME_TOO_LARGE,
    UNKNOWN_METHOD,
    Code,
    TetherError,
)
from p2p.frames import FrameReader
from p2p.identity import PeerId
from p2p.rpc.channel import Channel, hang_up
from p2p.rpc.crew import Crew, Member, Watched
from p2p.rpc.deadlines import Deadlines
from p2p.rpc.frames import Block, Cancel, Credit, Failed, Hello, More, Numbered, Open, pack
from p2p.rpc.incoming import IncomingCall
from p2p.rpc.latency import Latency
from p2p.rpc.limits import RpcLimits
from p2p.rpc.metrics import OK, RpcMetrics
from p2p.rpc.reading import LaneReading
from p2p.supervised import supervised
from p2p.transport import Stream

Answer = Callable[[IncomingCall], Coroutine[Any, Any, None]]
"""A handler by its bytes: it answers with `IncomingCall.send`, and at last with `finish` or `end`."""


@dataclass(frozen=True, slots=True)
class Service:
    """guests: whether a holder of an invite may call it."""

    answer: Answer
    guests: bool


@dataclass(slots=True)
class Usage:
    """What one peer uses of this node, over all its sessions."""

    calls: int = 0
    request_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """What sessions share of a node."""

    crew: Crew
    deadlines: Deadlines
    limits: RpcLimits
    metrics: RpcMetrics


class CalleeSession:
    """The calls that one lane of a peer brought. services: what this peer may call, by name."""

    def __init__(
        self,
        peer: PeerId,
        hello: Hello,
        usage: Usage,
        allowed_calls: int,
        services: Callable[[str], Service | None],
        latency: Latency,
        host: Host,
    ) -> None:
        self.peer = peer
        self.limits = host.limits
        self.channel = Channel(host.limits, latency)
        self.over = False
        self.used_s = -inf
        self.streams = 0
        self._correlation = hello.instance + hello.serial.to_bytes(3, "big")
        self._usage = usage
        self._allowed_calls = allowed_calls
        self._services = services
        self._host = host
        self._calls: dict[int, IncomingCall] = {}
        self._last_number = 0
        self._reading: LaneReading | None = None
        self._detached = trio.Event()
        self._detached.set()

    @property
    def last_use(self) -> float:
        return inf if self._calls else self.used_s

    async def carry(self, stream: Stream, reader: FrameReader, received: int) -> TetherError | None:
        """Go on over this stream instead of the last one. Returns why it ended; None: a newer stream took over."""
        self.streams += 1
        turn = self.streams
        self.channel.interrupt()
        await self._detached.wait()
        if self.over or turn != self.streams:
            await hang_up(stream, None, self.limits)
            return None
        self._detached = trio.Event()
        self._reading = reading = LaneReading(self, reader, self._host.crew)
        try:
            greeting = pack(Block(self.channel.received, []))
            verdict = await self.channel.carry(stream, reading.run, greeting=greeting, peer_received=received)
            return verdict if turn == self.streams else None
        finally:
            self._detached.set()

    def end(self, why: TetherError) -> None:
        """Cancel every handler: nobody will hear its answer."""
        self.over = True
        self.channel.interrupt(why)
        for call in list(self._calls.values()):
            self._drop(call, why)

    def correlation(self, number: int) -> str:
        return (self._correlation + number.to_bytes(5, "big")).hex()

    def say(self, frame: Numbered, size: int) -> None:
        """For the calls. While the stream's reader runs a handler itself, it writes for it afterwards."""
        self.channel.outbox.put(frame, size)
        if self._reading is None or not self._reading.running:
            self.channel.write_soon()

    # ── What the peer sends ──────────────────────────────────────────────────────────────────────────────────────

    def deliver(self, frame: Numbered) -> IncomingCall | None:
        """Take a frame; a call to be run now, if that makes one. Raises TetherError for the peer's faults."""
        if isinstance(frame, Open):
            return self._open(frame)
        if frame.call > self._last_number:
            raise TetherError(FRAME_INVALID, f"Call {frame.call} was never opened.")
        call = self._calls.get(frame.call)
        if call is None:
            return None  # it is over on this side, and the frame is late
        match frame:
            case Credit(amount=amount):
                call.credited(amount)
            case More(part=part):
                return call if call.more(part) else None
            case Cancel():
                self._drop(call, TetherError(CANCELLED, "The caller went away."))
            case _:
                raise TetherError(FRAME_INVALID, "Only a callee sends that.")
        return None

    def _open(self, frame: Open) -> IncomingCall | None:
        if frame.call <= self._last_number:
            raise TetherError(FRAME_INVALID, f"Call {frame.call} was opened before.")
        self._last_number = frame.call
        service = self._services(frame.method)
        usage, limits = self._usage, self.limits
        size = len(frame.request) + frame.rest
        if service is None:
            return self._refuse(frame, UNKNOWN_METHOD, f"There is no call {frame.method!r} here.")
        if size > limits.message_bytes:
            detail = f"The request has {size} bytes; {limits.message_bytes} are allowed."
            return self._refuse(frame, FRAME_TOO_LARGE, detail)
        if usage.calls >= self._allowed_calls or usage.request_bytes + size > limits.inbound_request_bytes:
            return self._refuse(frame, CAPACITY, f"{usage.calls} calls of this peer are under way.")
        call = IncomingCall(self, frame, service.answer)
        call.credited(0)
        self._calls[call.number] = call
        self.used_s = call.started
        usage.calls += 1
        usage.request_bytes += size
        self._host.metrics.call_started("callee", call.method)
        if call.whole:
            return call
        self.say(Credit(call.number, frame.rest), 0)
        return None

    def _refuse(self, frame: Open, code: Code, detail: str) -> IncomingCall | None:
        retry_after_s = self.limits.capacity_retry_s if code is CAPACITY else None
        fault = TetherError(code, detail, retry_after_s=retry_after_s)
        self.say(Failed(frame.call, fault.to_wire()), 0)
        return None

    def _drop(self, call: IncomingCall, why: TetherError) -> None:
        if call.whole:
            call.cancel(why)
        else:
            self._forget(call, why.code.name)

    def _forget(self, call: IncomingCall, code: str) -> None:
        del self._calls[call.number]
        self._usage.calls -= 1
        self._usage.request_bytes -= call.request_bytes
        self._host.deadlines.remove(call.ticket)
        self._host.metrics.call_ended(
            "callee",
            call.method,
            code,
            seconds=trio.current_time() - call.started,
            sent_bytes=call.sent_bytes,
            received_bytes=len(call.request),
        )

    # ── Handlers ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, call: IncomingCall, member: Member, waits: Callable[[], None]) -> None:
        """Run a handler to its end in this task. waits: called once if it does not end without a wait."""

        def waiting() -> None:
            call.member = member
            if call.deadline is not None:
                call.ticket = self._host.deadlines.add(call.deadline, call.expire)
            waits()

        fault: TetherError | None = None
        ended = False
        try:
            fault = await self._supervise(call, waiting)
            ended = True
        finally:
            call.member = None
            fault = fault if ended else call.fault
            if call.lost is None and fault is not None and not call.finished:
                self.say(Failed(call.number, fault.to_wire()), 0)
            code = fault.code if fault is not None else CALL_LOST
            self._forget(call, OK if ended and fault is None else code.name)

    async def _supervise(self, call: IncomingCall, waiting: Callable[[], None]) -> TetherError | None:
        """A fault is its answer; a bug of ours is logged, and the node goes on."""
        try:
            work = Watched(call.answer(call), waiting)
            await supervised(work, "rpc.handler_crashed", method=call.method, peer=call.peer)
        except TetherError as error:
            return error
        return None
