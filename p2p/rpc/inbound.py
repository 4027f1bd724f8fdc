"""Everything that peers bring here: their streams, found or begun sessions, and an end for those that never return."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final

import structlog
import trio

from p2p.errors import CALL_LOST, CAPACITY, FRAME_INVALID, UNREACHABLE, VERSION_UNSUPPORTED, TetherError
from p2p.frames import FrameReader
from p2p.identity import PeerId
from p2p.rpc.callee import CalleeSession, Host, Service, Usage
from p2p.rpc.channel import hang_up
from p2p.rpc.frames import VERSION, Hello, unpack
from p2p.rpc.latency import Latency
from p2p.transport import Stream

_log: Final = structlog.get_logger()

_Key = tuple[PeerId, bool]
"""A peer, and whether it came as a guest."""


@dataclass(slots=True)
class _Peer:
    """What one peer brought. instance: that peer's start; a new one means that the old one's calls are lost."""

    instance: bytes
    sessions: dict[int, CalleeSession] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)


class Inbound:
    """services: by method name. spawn: starts work that outlives the stream it came by."""

    def __init__(
        self,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
        latency: Callable[[PeerId], Latency],
        host: Host,
    ) -> None:
        self.services: dict[str, Service] = {}
        self._spawn = spawn
        self._latency = latency
        self._host = host
        self._limits = host.limits
        self._peers: dict[_Key, _Peer] = {}
        self._closed: TetherError | None = None

    async def answer(self, stream: Stream, *, guest: bool) -> None:
        """Carry the session that a stream's greeting names, until the stream ends."""
        reader = FrameReader(stream, self._limits.block_bytes)
        try:
            hello = await self._greeting(reader)
            stream.priority = hello.priority
            session = self._session(stream.peer, hello, guest)
        except TetherError as fault:
            await hang_up(stream, None if fault.code is UNREACHABLE else fault, self._limits)
            return
        verdict = await session.carry(stream, reader, hello.received)
        if verdict is None:
            return
        if verdict.code is UNREACHABLE and self._closed is None:
            self._spawn(partial(self._expire, session, (stream.peer, guest)))
            return
        if verdict.code is not CALL_LOST:
            _log.warning("rpc.session_ended", peer=stream.peer, code=verdict.code.name, detail=verdict.detail)
        self._end(session, verdict, (stream.peer, guest))

    def last_use(self, peer: PeerId) -> float:
        inbound = self._peers.get((peer, False))
        return (
            max((session.last_use for session in inbound.sessions.values()), default=-inf)
            if inbound
            else -inf
        )

    def peer_lost(self, peer: PeerId) -> None:
        """The transport says that the peer's last connection is gone, whatever its streams look like."""
        inbound = self._peers.get((peer, False))
        for session in inbound.sessions.values() if inbound else ():
            session.channel.interrupt()

    def close(self, why: TetherError) -> None:
        """End all there is, and take nothing more."""
        self._closed = why
        for inbound in self._peers.values():
            _end_all(inbound, why)

    async def _greeting(self, reader: FrameReader) -> Hello:
        hello = None
        with trio.move_on_after(self._limits.hello_s):
            body = await reader.one()
            hello = unpack(body) if body is not None else None
        if not isinstance(hello, Hello):
            raise TetherError(FRAME_INVALID, "A stream begins with a greeting.")
        if hello.version != VERSION:
            raise TetherError(
                VERSION_UNSUPPORTED, f"Calls of version {hello.version}; this node has {VERSION}."
            )
        return hello

    def _session(self, peer: PeerId, hello: Hello, guest: bool) -> CalleeSession:
        """Find the session to go on with, or begin it. Raises TetherError(CALL_LOST | CAPACITY)."""
        if self._closed is not None:
            raise self._closed
        inbound = self._peers.get((peer, guest))
        if inbound is None or inbound.instance != hello.instance:
            if inbound is not None:
                _end_all(inbound, TetherError(CALL_LOST, "The peer was restarted."))
            inbound = _Peer(hello.instance)
        session = inbound.sessions.get(hello.serial)
        if session is not None:
            return session
        if hello.resume:
            raise TetherError(CALL_LOST, "This node was restarted, or the connection was gone for too long.")
        self._make_room(inbound)
        allowed = self._limits.guest_calls if guest else self._limits.inbound_calls
        session = CalleeSession(
            peer,
            hello,
            inbound.usage,
            allowed,
            lambda method: self._service(method, guest),
            self._latency(peer),
            self._host,
        )
        inbound.sessions[hello.serial] = session
        self._peers[peer, guest] = inbound
        return session

    def _service(self, method: str, guest: bool) -> Service | None:
        service = self.services.get(method)
        return service if service and (service.guests or not guest) else None

    def _make_room(self, inbound: _Peer) -> None:
        """Let the oldest session go that has no stream, if there are too many."""
        if len(inbound.sessions) < self._limits.inbound_sessions:
            return
        serial = next((serial for serial, old in inbound.sessions.items() if not old.channel.carried), None)
        if serial is None:
            raise TetherError(CAPACITY, "Too many sessions.", retry_after_s=self._limits.capacity_retry_s)
        inbound.sessions.pop(serial).end(TetherError(CALL_LOST, "Newer sessions took its place."))

    async def _expire(self, session: CalleeSession, key: _Key) -> None:
        streams = session.streams
        await trio.sleep(self._limits.resume_s)
        if session.streams == streams:
            self._end(session, TetherError(CALL_LOST, "The connection broke and did not come back."), key)

    def _end(self, session: CalleeSession, why: TetherError, key: _Key) -> None:
        session.end(why)
        inbound = self._peers.get(key)
        if inbound is None:
            return
        inbound.sessions = {serial: other for serial, other in inbound.sessions.items() if not other.over}
        if not inbound.sessions:
            del self._peers[key]


def _end_all(inbound: _Peer, why: TetherError) -> None:
    for session in inbound.sessions.values():
        session.end(why)
