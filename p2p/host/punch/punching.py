"""The shell: whoever was dialled over a relay tries for a direct connection; calls go on there by themselves."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import structlog
import trio

from p2p.errors import FRAME_INVALID, TetherError
from p2p.host.addresses import TcpAddress, is_circuit, parse
from p2p.host.framing import Frames, framed
from p2p.host.observed import Observed
from p2p.host.punch.knocking import Knocking
from p2p.host.punch.tries import Tries
from p2p.host.punch.wire import CONNECT, DCUTR, MAX_BYTES, SYNC, Punch, read, targets, write
from p2p.host.streams import MuxedStream
from p2p.host.switch import Switch
from p2p.identity import PeerId

AGREE_S: Final = 10.0
"""For both sides' messages over the relay; the specification has a minute for it."""
MAX_AT_ONCE: Final = 16
"""Attempts under way: each is a few sockets for a few seconds."""

_log = structlog.get_logger()


class Punching:
    """tasks: where attempts run."""

    def __init__(self, switch: Switch, observed: Observed, tasks: trio.Nursery) -> None:
        self.tries = Tries()
        self._switch = switch
        self._observed = observed
        self._tasks = tasks
        self._under_way: set[PeerId] = set()
        self._hosts: set[str] = set()
        switch.handle_raw(DCUTR, self._follow)
        switch.listeners.append(self)

    def up(self, peer: PeerId) -> None:
        """Who dialled over the relay waits to be asked."""
        path = self._switch.path(peer)
        if path is not None and path.relay is not None and not path.outbound:
            self._begin(peer)

    def down(self, peer: PeerId) -> None:
        """Attempts notice by themselves."""

    def look(self) -> None:
        """Peers see other addresses of this node; new ports alone are a symmetric router's, which changes nothing."""
        hosts = {address.host for address in self._observed.outside()}
        if self._hosts and hosts - self._hosts:
            self.moved()
        self._hosts = hosts

    def moved(self) -> None:
        """This node is elsewhere: what could not be punched may be now."""
        self.tries.moved()
        for peer in self._switch.peers():
            self.up(peer)

    def _begin(self, peer: PeerId) -> None:
        busy = peer in self._under_way or len(self._under_way) >= MAX_AT_ONCE
        if not busy and self.tries.due(peer, trio.current_time()):
            self._under_way.add(peer)
            self._tasks.start_soon(self._upgrade, peer)

    async def _upgrade(self, peer: PeerId) -> None:
        began = trio.current_time()
        knocking = Knocking(self._switch, peer, self._tasks, client=False)
        try:
            while self._relayed(peer):
                if await self._try(peer, knocking):
                    self.tries.succeeded(peer)
                    _log.info("punch.direct", peer=peer, took_s=round(trio.current_time() - began, 3))
                    return
                pause_s = self.tries.failed(peer, trio.current_time())
                if pause_s is None:
                    _log.info("punch.gave_up", peer=peer)
                    return
                await trio.sleep(pause_s)
        finally:
            self._under_way.discard(peer)

    def _relayed(self, peer: PeerId) -> bool:
        path = self._switch.path(peer)
        return path is not None and path.relay is not None

    async def _try(self, peer: PeerId, knocking: Knocking) -> bool:
        """One attempt, as the one that leads it; beside it, plain dials of what the peer announces."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(knocking.dial, self._announced(peer))
            with suppress(TetherError):
                await knocking.run(await self._agree(peer))
            nursery.cancel_scope.cancel()
        return knocking.direct

    def _announced(self, peer: PeerId) -> tuple[TcpAddress, ...]:
        return targets(parse(text) for text in self._switch.book.of(peer) if not is_circuit(text))

    async def _agree(self, peer: PeerId) -> tuple[TcpAddress, ...]:
        """Lead the exchange; returns when it is time to dial, with where to. Raises TetherError."""
        stream, _ = await self._switch.open(peer, [DCUTR])
        try:
            with trio.move_on_after(AGREE_S):
                began = trio.current_time()
                await stream.write(framed(write(self._own())))
                answer = _expected(await Frames(stream, MAX_BYTES).one(), CONNECT)
                round_trip_s = trio.current_time() - began
                await stream.write(framed(write(Punch(SYNC))))
                await stream.close()
                await trio.sleep(round_trip_s / 2)
                return answer.addresses
        finally:
            await stream.reset()
        raise TetherError(FRAME_INVALID, "The peer does not say where it is.")

    async def _follow(self, stream: MuxedStream, _protocol: str) -> None:
        """The other side's part: answer, and dial as soon as it says so."""
        peer = stream.peer
        try:
            with trio.fail_after(AGREE_S):
                frames = Frames(stream, MAX_BYTES)
                said = _expected(await frames.one(), CONNECT)
                await stream.write(framed(write(self._own())))
                _expected(await frames.one(), SYNC)
        except (TetherError, trio.TooSlowError):
            return
        if self._relayed(peer) and peer not in self._under_way and len(self._under_way) < MAX_AT_ONCE:
            self._under_way.add(peer)
            try:
                await Knocking(self._switch, peer, self._tasks, client=True).run(said.addresses)
            finally:
                self._under_way.discard(peer)

    def _own(self) -> Punch:
        announced = (parse(text) for text in self._switch.addresses() if not is_circuit(text))
        return Punch(CONNECT, targets((*self._observed.outside(), *announced)))


def _expected(data: bytes, kind: int) -> Punch:
    punch = read(data)
    if punch.kind != kind:
        raise TetherError(FRAME_INVALID, "That message of DCUtR does not belong there.")
    return punch
