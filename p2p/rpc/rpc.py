"""`Rpc`: what a node calls and what it serves. The frames and their rules are in `p2p.rpc.frames`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import inf
from typing import Final, Generic

import trio

from p2p.errors import CALL_LOST, DEADLINE, FRAME_INVALID, TetherError
from p2p.identity import PeerId
from p2p.messages import Answer, Method, Request
from p2p.pipe import pipe
from p2p.rpc.callee import Service
from p2p.rpc.caller import CallerSession
from p2p.rpc.inbound import Inbound
from p2p.rpc.incoming import IncomingCall
from p2p.rpc.limits import RpcLimits
from p2p.rpc.metrics import NoMetrics, RpcMetrics
from p2p.rpc.outgoing import OutgoingCall
from p2p.transport import PeerAddress, Stream, Transport
from p2p.wire import decode, encode

MEMBER_PROTOCOL: Final = "/tether/rpc/1"
GUEST_PROTOCOL: Final = "/tether/rpc-guest/1"


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


@dataclass(frozen=True, slots=True)
class _Lane:
    """What shares a stream: control apart from bulk, so that neither waits in the other's buffers."""

    peer: PeerId
    bulk: bool
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
        self._instance = os.urandom(8)
        self._serials = count()
        self._outbound: dict[_Lane, CallerSession] = {}
        self._inbound = Inbound(self._spawn, limits, metrics)
        self._nursery: trio.Nursery | None = None
        self._stopped = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve and carry calls until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._transport.handle(MEMBER_PROTOCOL, partial(self._inbound.answer, guest=False))
            self._transport.handle(GUEST_PROTOCOL, partial(self._inbound.answer, guest=True), guests=True)
            self._transport.watch(self._peer_changed)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._stopped = True
                self._inbound.close(TetherError(CALL_LOST, "The peer is shutting down."))

    def serve(
        self,
        method: Method[Request, Answer],
        handler: Callable[[PeerId, Request], Awaitable[Answer]],
        *,
        guests: bool = False,
    ) -> None:
        """Answer a unary call. A TetherError from handler is its answer. guests: holders of an invite may call, too."""

        async def answer(call: IncomingCall) -> bytes:
            return encode(await handler(call.peer, decode(call.request, method.request)))

        self._inbound.services[method.name] = Service(answer, guests)

    def serve_stream(
        self,
        method: Method[Request, Answer],
        handler: Callable[[ServerCall[Request, Answer]], Awaitable[None]],
    ) -> None:
        """Answer a call with many messages; the stream ends well when handler returns."""

        async def answer(call: IncomingCall) -> None:
            await handler(ServerCall[Request, Answer](call, decode(call.request, method.request)))

        self._inbound.services[method.name] = Service(answer, guests=False)

    async def ask(
        self, peer: PeerId, method: Method[Request, Answer], request: Request, *, timeout_s: float
    ) -> Answer:
        """Call and wait for the one answer. Raises the peer's TetherError, UNREACHABLE, CALL_LOST or DEADLINE."""
        deadline = trio.current_time() + timeout_s
        with closing(self._open(peer, method, request, timeout_s)) as call:
            message = await _next(call, deadline)
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
        deadline = inf if timeout_s is None else trio.current_time() + timeout_s
        with closing(self._open(peer, method, request, timeout_s)) as call:
            yield _Answers(call, method.answer, deadline)

    # ── Calling ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(
        self, peer: PeerId, method: Method[Request, Answer], request: Request, timeout_s: float | None
    ) -> OutgoingCall:
        lane = _Lane(peer, method.priority > 0, method.guests)
        session = self._outbound.get(lane)
        if session is None or session.over:
            session = CallerSession(
                peer, self._dial(lane), self._instance, next(self._serials), self._limits, self._metrics
            )
            self._spawn(partial(self._carry, lane, session))
            self._outbound[lane] = session
        return session.open(method.name, method.priority, encode(request), timeout_s)

    async def _carry(self, lane: _Lane, session: CallerSession) -> None:
        await session.run()
        if self._outbound.get(lane) is session:
            del self._outbound[lane]

    def _dial(self, lane: _Lane) -> Callable[[bool], Awaitable[Stream]]:
        async def dial(again: bool) -> Stream:
            if lane.peer == self._transport.peer_id:
                ours, theirs = pipe(lane.peer, lane.peer)
                self._spawn(partial(self._inbound.answer, theirs, guest=lane.guests))
                return ours
            if again:
                await self._transport.connect(PeerAddress(lane.peer))
            return await self._transport.open_stream(
                lane.peer, GUEST_PROTOCOL if lane.guests else MEMBER_PROTOCOL
            )

        return dial

    def _peer_changed(self, peer: PeerId, up: bool) -> None:
        for lane, session in self._outbound.items():
            if lane.peer == peer:
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

    def __init__(self, call: OutgoingCall, kind: type[Answer], deadline: float) -> None:
        self._call = call
        self._kind = kind
        self._deadline = deadline

    def __aiter__(self) -> _Answers[Answer]:
        return self

    async def __anext__(self) -> Answer:
        message = await _next(self._call, self._deadline)
        if message is None:
            raise StopAsyncIteration
        return decode(message, self._kind)


async def _next(call: OutgoingCall, deadline: float) -> bytes | None:
    with trio.CancelScope(deadline=deadline) as scope:
        message = await call.receive()
    if not scope.cancelled_caught:
        return message
    call.code = DEADLINE.name
    raise TetherError(DEADLINE, f"{call.method!r} was not answered in time.")
