"""The shell: one connection's two tasks, and the way out that every writer takes by itself.

reader: one receive, the session's rules over all of it, then wakes whoever waited; sends what the rules answered.
drainer: waits for the pipe whenever that is full, and goes on where the writers had to stop.

A writer sends in its own task while the pipe takes it, so a small message costs no task switch. Cancelling it never
leaves half a frame: frames are made when they go out, and what is not yet made is withdrawn.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from p2p.host.errors import BROKEN, ConnectionLost, PeerFault
from p2p.host.link import Link
from p2p.host.yamux.budget import GROWTH_BYTES, Budget
from p2p.host.yamux.flow import Flow
from p2p.host.yamux.frames import Goodbye
from p2p.host.yamux.session import Session

YAMUX: Final = "/yamux/1.0.0"
FLUSH_S: Final = 0.5
"""For the last words of a connection that is being closed, and for the peer to close: who closes first resets what
is on its way."""
DISMISS_S: Final = 0.2
"""For a peer that broke the rules to read why it goes."""
BURST: Final = 8
"""Noise messages sent by one task before others have their turn."""


class Muxer:
    """The streams of one connection. accept: called with each stream that the peer opens."""

    def __init__(
        self,
        link: Link,
        *,
        initiator: bool,
        accept: Callable[[Flow], None],
        budget: Budget | None = None,
        ahead: bytes = b"",
    ) -> None:
        """ahead: what came behind the agreement on yamux. budget: the host's."""
        self.session = Session(initiator=initiator, budget=Budget(GROWTH_BYTES, budget))
        self.closed = False
        self._link = link
        self._accept = accept
        self._ahead = ahead
        self._heard = trio.current_time()
        self._asked = False
        self._stuck = False
        self._drainer: trio.lowlevel.Task | None = None
        self._quiet = trio.lowlevel.ParkingLot()
        self._ended = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Carry streams until the connection is gone. Raises PeerFault if the peer broke the rules."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._drain)
                    await self._read()
        except* PeerFault as faults:
            self._end()
            await self._dismiss()
            raise faults.exceptions[0] from None
        finally:
            await self.abandon()

    async def close(self) -> None:
        """Write out what is offered, say goodbye, and let the peer close."""
        if not self.closed:
            with trio.move_on_after(FLUSH_S):
                self.flush()
                while self._stuck and not self.closed:
                    await self._quiet.park()
                self.session.say_goodbye(Goodbye.NORMAL)
                self.flush()
                await self._ended.wait()
        await self.abandon()

    async def abandon(self) -> None:
        """Close without a word, and wake everybody who reads or writes here."""
        self._end()
        await self._link.close()

    @property
    def full(self) -> bool:
        """Whether the pipe takes nothing now."""
        return self._stuck

    def open(self, priority: int) -> Flow:
        """Raises ConnectionLost, TooManyStreams."""
        if self.closed:
            raise ConnectionLost("The connection is closed.")
        return self.session.open(priority)

    def flush(self) -> None:
        """Send what there is to send, as far as the pipe takes it now; the drainer sees to the rest."""
        if self.closed or self._stuck:
            return
        link, outgoing = self._link, self.session.outgoing
        try:
            for _ in range(BURST):
                count = outgoing(link.room)
                if not count:
                    return
                link.send_now(count)
                if link.blocked:
                    break
        except BROKEN:
            self._end()
            return
        self._stuck = True
        if self._drainer is not None:
            trio.lowlevel.reschedule(self._drainer)
            self._drainer = None

    def keep_alive(self, now: float, patience_s: float) -> None:
        """Ask a peer that was silent for patience_s for a sign of life; give it up after as long again.

        Called now and then by whoever keeps the connections.
        """
        silence = now - self._heard
        if silence < patience_s:
            self._asked = False
        elif not self._asked:
            self._asked = True
            self.session.ping(0)
            self.flush()
        elif silence >= 2 * patience_s:
            self._end()

    def _end(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._ended.set()
        self._quiet.unpark_all()
        self._scope.cancel()
        for flow in list(self.session.flows.values()):
            flow.changed()

    async def _read(self) -> None:
        """Runs until the connection ends. Raises PeerFault."""
        session = self.session
        try:
            if self._ahead:
                session.receive(memoryview(self._ahead))
                self._ahead = b""
                self._dispatch()
            while session.goodbye is None:
                plain = await self._link.receive()
                if not plain:
                    break
                self._heard = trio.current_time()
                session.receive(plain)
                self._dispatch()
        except BROKEN:
            pass
        self._end()

    def _dispatch(self) -> None:
        session = self.session
        if session.accepted:
            accepted, session.accepted = session.accepted, []
            for flow in accepted:
                self._accept(flow)
        if session.waiting:
            self.flush()

    async def _drain(self) -> None:
        while True:
            if not self._stuck:
                self._drainer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._leave)
            try:
                if self._link.blocked:
                    await self._link.drain()
                else:
                    await trio.lowlevel.checkpoint()
            except BROKEN:
                self._end()
                return
            self._stuck = False
            self.flush()
            if not self._stuck:
                self._quiet.unpark_all()

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._drainer = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def _dismiss(self) -> None:
        """Tell the peer that it broke the rules, if it listens."""
        with trio.move_on_after(DISMISS_S, shield=True), suppress(*BROKEN):
            if not self._link.blocked:
                self.session.say_goodbye(Goodbye.PROTOCOL_ERROR)
                self._link.send_now(self.session.outgoing(self._link.room))
                await self._link.hang_up()
