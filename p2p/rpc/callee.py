"""The callee's side: the sessions of one peer, the calls in them, and what that peer may use here.

greeted ──> carried ──stream broke──> detached ──greeted again within resume_s──> carried
               └─ goodbye, a fault, a new instance of the peer ─┴─ time is up ──> over: handlers are cancelled
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
import trio

from p2p.errors import (
    CANCELLED,
    CAPACITY,
    DEADLINE,
    FLOW_VIOLATION,
    FRAME_INVALID,
    INTERNAL,
    UNKNOWN_METHOD,
    TetherError,
)
from p2p.frames import FrameReader
from p2p.identity import PeerId
from p2p.rpc.channel import Channel, hang_up
from p2p.rpc.frames import (
    Cancel,
    Credit,
    End,
    Failed,
    Last,
    Numbered,
    Open,
    Welcome,
    pack,
)
from p2p.rpc.incoming import IncomingCall
from p2p.rpc.limits import RpcLimits
from p2p.rpc.metrics import OK, RpcMetrics
from p2p.transport import Stream

_log: Final = structlog.get_logger()

Answer = Callable[[IncomingCall], Awaitable[bytes | None]]
"""A handler by its bytes: what it returns is the last answer, None if it has sent all of them."""


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


class CalleeSession:
    """The calls that one lane of a peer brought. spawn: starts a handler in the nursery that outlives streams."""

    def __init__(
        self,
        peer: PeerId,
        credit: int,
        usage: Usage,
        allowed_calls: int,
        services: Callable[[str], Service | None],
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
        limits: RpcLimits,
        metrics: RpcMetrics,
    ) -> None:
        self.peer = peer
        self.limits = limits
        self.channel = Channel(limits, self._deliver)
        self.credit = self._window = min(credit, limits.lane_credit_bytes)
        self.credited = trio.lowlevel.ParkingLot()
        self.over = False
        self.streams = 0
        self._usage = usage
        self._allowed_calls = allowed_calls
        self._services = services
        self._spawn = spawn
        self._metrics = metrics
        self._calls: dict[int, IncomingCall] = {}
        self._detached = trio.Event()
        self._detached.set()

    def send(self, call: IncomingCall, frame: Numbered) -> None:
        self.channel.send(frame, call.priority)

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
        try:
            greeting = pack(Welcome(self.channel.received))
            verdict = await self.channel.carry(stream, reader, greeting=greeting, peer_received=received)
            return verdict if turn == self.streams else None
        finally:
            self._detached.set()

    def end(self, why: TetherError) -> None:
        """Cancel every handler: nobody will hear its answer."""
        self.over = True
        self.channel.interrupt(why)
        for call in list(self._calls.values()):
            call.cancel(why)

    # ── What the peer sends ──────────────────────────────────────────────────────────────────────────────────────

    def _deliver(self, frame: Numbered) -> None:
        match frame:
            case _ if self.over:
                pass
            case Open():
                self._open(frame)
            case Credit(call=number, amount=amount):
                self._credit(number, amount)
            case Cancel(call=number):
                if number in self._calls:
                    self._calls[number].cancel(TetherError(CANCELLED, "The caller went away."))
            case _:
                raise TetherError(FRAME_INVALID, "Only a callee sends that.")

    def _open(self, frame: Open) -> None:
        if frame.call in self._calls:
            raise TetherError(FRAME_INVALID, f"Call {frame.call} is open already.")
        service = self._services(frame.method)
        usage, limits = self._usage, self.limits
        if service is None:
            self._refuse(frame, TetherError(UNKNOWN_METHOD, f"There is no call {frame.method!r} here."))
        elif usage.calls >= self._allowed_calls or (
            usage.request_bytes and usage.request_bytes + len(frame.request) > limits.inbound_request_bytes
        ):
            detail = f"{usage.calls} calls of this peer are under way."
            self._refuse(frame, TetherError(CAPACITY, detail, retry_after_s=limits.capacity_retry_s))
        else:
            call = IncomingCall(self, frame)
            self._calls[call.number] = call
            usage.calls += 1
            usage.request_bytes += len(call.request)
            self._metrics.call_started("callee", call.method)
            answer = service.answer
            self._spawn(partial(self._run, call, answer))

    def _refuse(self, frame: Open, why: TetherError) -> None:
        self.channel.send(Failed(frame.call, why.to_wire()), frame.priority)

    def _credit(self, number: int, amount: int) -> None:
        if number == 0:
            self.credit += amount
            self.credited.unpark_all()
            if self.credit > self._window:
                raise TetherError(FLOW_VIOLATION, "The peer returned credit that it never used.")
        elif call := self._calls.get(number):
            call.credit += amount
            call.credited.unpark_all()
            if call.credit > call.window:
                raise TetherError(FLOW_VIOLATION, f"Call {number} was given credit back that it never used.")

    # ── Handlers ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, call: IncomingCall, answer: Answer) -> None:
        started = trio.current_time()
        code = INTERNAL.name
        try:
            end = await self._supervise(call, answer)
            code = end.error.code if isinstance(end, Failed) else OK
            if call.lost is None:
                self.send(call, end)
        finally:
            del self._calls[call.number]
            self._usage.calls -= 1
            self._usage.request_bytes -= len(call.request)
            self._metrics.call_ended(
                "callee",
                call.method,
                code,
                seconds=trio.current_time() - started,
                sent_bytes=call.sent_bytes,
                received_bytes=len(call.request),
            )

    async def _supervise(self, call: IncomingCall, answer: Answer) -> Last | End | Failed:
        """Run a handler to its end. A fault is its answer; a bug of ours is logged, and the node goes on."""
        end: Last | End
        try:
            with call.scope:
                last = await answer(call)
                if last is None:
                    end = End(call.number)
                else:
                    await call.await_credit(last)
                    end = Last(call.number, last)
            if not call.scope.cancelled_caught:
                return end
            fault = call.lost or TetherError(DEADLINE, "The caller's time was over before the answer.")
        except TetherError as error:
            fault = error
        except Exception as error:  # noqa: BLE001 the one supervisor of foreign code: a call ends, not the daemon
            fault = _only_fault(error) or _crashed(call, error)
        return Failed(call.number, fault.to_wire())


def _only_fault(error: Exception) -> TetherError | None:
    """The fault in a group of nothing but faults, as a nursery in a handler raises it."""
    leaves = list(_leaves(error))
    faults = [leaf for leaf in leaves if isinstance(leaf, TetherError)]
    return faults[0] if len(faults) == len(leaves) else None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _crashed(call: IncomingCall, error: Exception) -> TetherError:
    """Log where and as what a handler crashed; never its message, which may quote what it worked on."""
    bug = next(leaf for leaf in _leaves(error) if not isinstance(leaf, TetherError))
    place = traceback.extract_tb(bug.__traceback__)[-1]
    where = f"{place.filename.rpartition('/')[2]}:{place.lineno} in {place.name}"
    _log.error("rpc.handler_crashed", method=call.method, peer=call.peer, bug=type(bug).__name__, where=where)
    return TetherError(INTERNAL, f"The handler of {call.method!r} failed.")
