"""`Rpc`: what a node calls and what it serves. The frames and their rules are in `p2p.rpc.frames`."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from itertools import count
from math import inf
from typing import Any, Final, Generic, NamedTuple
from weakref import WeakValueDictionary

import trio

from p2p.errors import CALL_LOST, DEADLINE, FRAME_INVALID, UNKNOWN_METHOD, TetherError
from p2p.identity import PeerId
from p2p.messages import Answer, Method, Request
from p2p.pipe import pipe
from p2p.rpc.callee import Host, Service
from p2p.rpc.caller import CallerSession, Lane, Shared
from p2p.rpc.credit import Pool
from p2p.rpc.crew import Crew
from p2p.rpc.deadlines import Deadlines
from p2p.rpc.frames import INSTANCE_BYTES
from p2p.rpc.inbound import Inbound
from p2p.rpc.incoming import IncomingCall
from p2p.rpc.latency import Latency
from p2p.rpc.limits import PRIORITIES, RpcLimits
from p2p.rpc.metrics import NoMetrics, RpcMetrics
from p2p.rpc.outgoing import OutgoingCall
from p2p.supervised import supervised
from p2p.transport import PeerAddress, Stream, Transport
from p2p.wire import decode, encode

MEMBER_PROTOCOL: Final = "/tether/rpc/1"
GUEST_PROTOCOL: Final = "/tether/rpc-guest/1"
MAX_LATENCIES: Final = 8_192
"""Peers whose round trip is remembered: as many as the address book knows."""


class ServerCall(Generic[Request, Answer]):
    """A streaming call as its handler holds it. correlation_id: 32 hex digits, the same at the caller."""

    def __init__(self, call: IncomingCall, request: Request) -> None:
        self._call = call
        self.request = request

    @property
    def peer(self) -> PeerId:
        return self._call.peer

    @property
    def correlation_id(self) -> str:
        return self._call.correlation_id

    async def send(self, answer: Answer) -> None:
        """Send one answer as soon as the caller has room for it. Raises TetherError(CANCELLED | CALL_LOST)."""
        await self._call.send(encode(answer))

    async def finish(self, answer: Answer) -> None:
        """Send the last answer, and with it the end: the caller waits for nothing more. Raises as `send` does.

        A checkpoint: it leaves before the handler clears up.
        """
        await self._call.finish(encode(answer))
        await trio.lowlevel.checkpoint()


class _Way(NamedTuple):
    """Which session a call goes over."""

    peer: PeerId
    priority: int
    guests: bool


class Rpc:
    """Calls to peers, and from them. This node itself may be called like any peer."""

    def __init__(
        self,
        transport: Transport,
        *,
        limits: RpcLimits = RpcLimits(),  # noqa: B008 it is frozen
        metrics: RpcMetrics = NoMetrics(),  # noqa: B008 it keeps nothing
    ) -> None:
        self._transport = transport
        self._limits = limits
        self._metrics = metrics
        self._instance = os.urandom(INSTANCE_BYTES)
        self._serials = count()
        self._deadlines = Deadlines()
        self._latencies: OrderedDict[PeerId, Latency] = OrderedDict()
        self._pools: WeakValueDictionary[PeerId, Pool] = WeakValueDictionary()
        self._outbound: dict[_Way, CallerSession] = {}
        self._here: dict[str, Callable[[PeerId, Any], Awaitable[Any]]] = {}
        host = Host(Crew(self._spawn, limits.crew), self._deadlines, limits, metrics)
        self._inbound = Inbound(self._spawn, self._latency, host)
        self._nursery: trio.Nursery | None = None
        self._stopped = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve and carry calls until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._transport.handle(MEMBER_PROTOCOL, partial(self._inbound.answer, guest=False))
            self._transport.handle(GUEST_PROTOCOL, partial(self._inbound.answer, guest=True), guests=True)
            self._transport.watch(self._peer_changed)
            self._transport.keep(self._last_use)
            task_status.started()
            try:
                await self._deadlines.run()
            finally:
                self._stopped = True
                self._inbound.close(TetherError(CALL_LOST, "The peer is shutting down."))

    def round_trip_s(self, peer: PeerId) -> float | None:
        """How long a frame and its acknowledgement take lately, smoothed; None if this node has not seen it."""
        latency = self._latencies.get(peer)
        return latency.smoothed_s if latency else None

    def serve(
        self,
        method: Method[Request, Answer],
        handler: Callable[[PeerId, Request], Awaitable[Answer]],
        *,
        guests: bool = False,
    ) -> None:
        """Answer a unary call. A TetherError from handler is its answer. guests: holders of an invite may call, too."""

        async def answer(call: IncomingCall) -> None:
            await call.finish(encode(await handler(call.peer, decode(call.request, method.request))))

        self._inbound.services[method.name] = Service(answer, guests)
        self._here[method.name] = handler

    def serve_stream(
        self,
        method: Method[Request, Answer],
        handler: Callable[[ServerCall[Request, Answer]], Awaitable[None]],
    ) -> None:
        """Answer a call with many messages; the stream ends well when handler returns."""

        async def answer(call: IncomingCall) -> None:
            await handler(ServerCall(call, decode(call.request, method.request)))
            call.end()

        self._inbound.services[method.name] = Service(answer, guests=False)

    async def ask(
        self, peer: PeerId, method: Method[Request, Answer], request: Request, *, timeout_s: float
    ) -> Answer:
        """Call and wait for the one answer. Raises the peer's TetherError, UNREACHABLE, CALL_LOST or DEADLINE."""
        if peer == self._transport.peer_id:
            return await self._ask_here(method, request, timeout_s)
        call = self._open(peer, method, request, timeout_s)
        try:
            message = await call.receive()
        finally:
            call.close()
        if message is None:
            raise TetherError(FRAME_INVALID, f"The peer ended {method.name!r} without an answer.")
        return decode(message, method.answer)

    @asynccontextmanager
    async def stream(
        self,
        peer: PeerId,
        method: Method[Request, Answer],
        request: Request,
        *,
        timeout_s: float | None = None,
    ) -> AsyncIterator[AsyncIterator[Answer]]:
        """Call, and iterate over the answers; iterating raises as `ask` does. Leaving early cancels the call there."""
        with closing(self._open(peer, method, request, inf if timeout_s is None else timeout_s)) as call:
            yield _Answers(call, method.answer)

    async def _ask_here(self, method: Method[Request, Answer], request: Request, timeout_s: float) -> Answer:
        """A call of this node to itself needs no bytes, only the rules: a deadline, and faults that are answers."""
        me, handler = self._transport.peer_id, self._here.get(method.name)
        if handler is None:
            raise TetherError(UNKNOWN_METHOD, f"There is no call {method.name!r} here.")
        with trio.move_on_after(timeout_s):
            work = handler(me, request)
            answer: Answer = await supervised(work, "rpc.handler_crashed", method=method.name, peer=me)
            return answer
        raise TetherError(DEADLINE, f"{method.name!r} was not answered in time.")

    # ── Calling ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(
        self, peer: PeerId, method: Method[Request, Answer], request: Request, timeout_s: float
    ) -> OutgoingCall:
        way = _Way(peer, method.priority, method.guests)
        session = self._outbound.get(way)
        if session is None or session.over:
            session = self._begin(way)
        return session.open(method.name, encode(request), timeout_s)

    def _begin(self, way: _Way) -> CallerSession:
        pool = self._pools.get(way.peer) or Pool(self._limits)
        lane = Lane(way.peer, way.priority, self._instance, next(self._serials))
        shared = Shared(pool, self._latency(way.peer), self._deadlines, self._limits, self._metrics)
        session = CallerSession(lane, self._dial(way), shared)
        self._spawn(partial(self._carry, way, session))
        self._pools[way.peer] = pool
        self._outbound[way] = session
        return session

    async def _carry(self, way: _Way, session: CallerSession) -> None:
        await session.run()
        if self._outbound.get(way) is session:
            del self._outbound[way]

    def _dial(self, way: _Way) -> Callable[[bool], Awaitable[Stream]]:
        async def dial(again: bool) -> Stream:
            if way.peer == self._transport.peer_id:
                ours, theirs = pipe(way.peer, way.peer)
                self._spawn(partial(self._inbound.answer, theirs, guest=way.guests))
                return ours
            if again:
                await self._transport.connect(PeerAddress(way.peer))
            return await self._transport.open_stream(
                way.peer, GUEST_PROTOCOL if way.guests else MEMBER_PROTOCOL, priority=way.priority
            )

        return dial

    def _latency(self, peer: PeerId) -> Latency:
        latency = self._latencies.setdefault(peer, Latency())
        self._latencies.move_to_end(peer)
        while len(self._latencies) > MAX_LATENCIES:
            self._latencies.popitem(last=False)
        return latency

    def _last_use(self, peer: PeerId) -> float:
        lanes = (self._outbound.get(_Way(peer, priority, False)) for priority in range(PRIORITIES))
        return max(self._inbound.last_use(peer), *(lane.last_use if lane else -inf for lane in lanes))

    def _peer_changed(self, peer: PeerId, up: bool) -> None:
        for way, session in self._outbound.items():
            if way.peer == peer:
                session.peer_changed(up)
        if not up:
            self._inbound.peer_lost(peer)

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is None:
            raise RuntimeError("Rpc.run has to be started first")
        if self._stopped:
            raise TetherError(CALL_LOST, "This node is shutting down.")
        self._nursery.start_soon(work)


class _Answers(Generic[Answer]):
    """The answers of a streaming call, decoded one by one."""

    def __init__(self, call: OutgoingCall, kind: type[Answer]) -> None:
        self._call = call
        self._kind = kind

    def __aiter__(self) -> _Answers[Answer]:
        return self

    async def __anext__(self) -> Answer:
        message = await self._call.receive()
        if message is None:
            raise StopAsyncIteration
        return decode(message, self._kind)
