"""The reading of one stream on the callee's side, handed from task to task of the crew."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from p2p.errors import TetherError
from p2p.frames import FrameReader
from p2p.rpc.crew import Crew, Member
from p2p.rpc.frames import Numbered

if TYPE_CHECKING:
    from p2p.rpc.callee import CalleeSession

FAIR: Final = 64
"""Frames that a reader takes before it lets the node's other tasks go on."""


class LaneReading:
    """running: whether the reader runs a handler right now, one that has not waited yet."""

    def __init__(self, session: CalleeSession, reader: FrameReader, crew: Crew) -> None:
        self.running = False
        self._session = session
        self._reader = reader
        self._crew = crew
        self._frames: deque[Numbered] = deque()
        self._leader: Member | None = None
        self._stopped = False
        self._over = trio.Event()
        self._fault: TetherError | None = None

    async def run(self) -> None:
        """Have the crew read until the stream ends. Raises TetherError with what was wrong with it."""
        self._crew.lead(self)
        try:
            await self._over.wait()
        finally:
            self._stopped = True
            if self._leader is not None:
                self._leader.cancel()
        if self._fault is not None:
            raise self._fault

    async def lead(self, member: Member) -> None:
        """Implements `Reading`."""
        self._leader = member
        try:
            while not self._stopped and self._leader is member:
                if self._frames:
                    await self._deliver(member)
                else:
                    await self._read()
        except TetherError as error:
            self._stop(error)
        finally:
            if self._leader is member:
                self._stop(None)

    async def _read(self) -> None:
        bodies = await self._reader.some()
        if not bodies:
            self._stop(None)
        for body in bodies:
            self._frames += self._session.channel.take(body)

    async def _deliver(self, member: Member) -> None:
        """Take what has come, frame by frame, for as long as this member leads."""
        session = self._session
        channel, frames = session.channel, self._frames
        fair = FAIR
        while frames and not self._stopped:
            channel.received += 1
            call = session.deliver(frames.popleft())
            if call is not None:
                self.running = True
                await session.run(call, member, self._hand_over)
                if self._leader is not member:
                    return
                self.running = False
            fair -= 1
            if not fair:
                fair = FAIR
                channel.flush()
                await trio.lowlevel.checkpoint()
        channel.flush()

    def _hand_over(self) -> None:
        """The handler waits: its task stays with it, and another one reads on."""
        self.running = False
        self._leader = None
        self._session.channel.flush()
        self._crew.lead(self)

    def _stop(self, fault: TetherError | None) -> None:
        self._stopped = True
        self._fault = self._fault or fault
        self._leader = None
        self._over.set()
