"""A relay's side: reservations by those who cannot be dialled, and circuits to them, within its terms.

Nothing is queued: a circuit reads no further than what it has passed on, so a slow target, or a budget that is used
up, is felt by the source as a full window.
"""

from __future__ import annotations

import time
from typing import Final

import structlog
import trio

from p2p.errors import TetherError
from p2p.host.framing import framed
from p2p.host.idle import IN_USE, UNUSED
from p2p.host.relay.asking import ANSWER_S, ask, listen
from p2p.host.relay.budget import Bandwidth
from p2p.host.relay.slots import Opened, Refused, Slots
from p2p.host.relay.wire import (
    CONNECT,
    HOP,
    RESERVE,
    STATUS,
    STOP,
    STOP_CONNECT,
    STOP_STATUS,
    Hop,
    Limit,
    Status,
    Stop,
    read_hop,
    read_stop,
    write_hop,
    write_stop,
)
from p2p.host.settings import RelayTerms
from p2p.host.streams import MuxedStream
from p2p.host.switch import Switch
from p2p.identity import PeerId
from p2p.transport import CHUNKS

READ_BYTES: Final = 64 * 1024

_log = structlog.get_logger()


class HopService:
    """Offered from `offer` to `withdraw`; what was granted before stays until it ends."""

    def __init__(self, switch: Switch, terms: RelayTerms) -> None:
        self.slots = Slots(terms)
        self._switch = switch
        self._terms = terms
        self._bandwidth = Bandwidth(terms.bytes_per_s, trio.current_time())
        switch.uses.append(lambda peer: IN_USE if self.slots.serves(peer) else UNUSED)
        switch.watch(lambda peer, up: None if up else self.slots.left(peer))

    def offer(self) -> None:
        self._switch.handle_raw(HOP, self._serve)

    def withdraw(self) -> None:
        self._switch.withdraw(HOP)

    async def _serve(self, stream: MuxedStream, _protocol: str) -> None:
        try:
            with trio.fail_after(ANSWER_S):
                hop, ahead = await listen(stream, read_hop)
        except (TetherError, trio.TooSlowError):
            await _answer(stream, Hop(STATUS, Status.MALFORMED_MESSAGE))
            return
        try:
            if not self._is_direct(stream.peer):
                raise Refused(Status.PERMISSION_DENIED)
            if hop.kind == RESERVE:
                await self._reserve(stream)
            elif hop.kind == CONNECT and hop.peer is not None:
                await self._connect(stream, hop.peer, ahead)
            else:
                raise Refused(Status.UNEXPECTED_MESSAGE)
        except Refused as refusal:
            await _answer(stream, Hop(STATUS, refusal.status, load=self._load()))

    def _is_direct(self, peer: PeerId) -> bool:
        path = self._switch.path(peer)
        return path is not None and path.relay is None

    async def _reserve(self, stream: MuxedStream) -> None:
        """For whom the connection proved, whatever the message says."""
        self.slots.reserve(stream.peer, trio.current_time())
        expires = int(time.time() + self._terms.reservation_s)
        addresses = self._switch.addresses()
        granted = Hop(
            STATUS, Status.OK, expires=expires, addresses=addresses, limit=self._limit(), load=self._load()
        )
        _log.info("relay.reserved", peer=stream.peer, reservations=self.slots.reservations)
        await _answer(stream, granted)

    async def _connect(self, source: MuxedStream, target_peer: PeerId, ahead: bytes) -> None:
        if not self._is_direct(target_peer):
            raise Refused(Status.NO_RESERVATION)
        opened = self.slots.open(source.peer, target_peer, trio.current_time())
        target: MuxedStream | None = None
        try:
            target, behind = await self._call(opened)
            source.priority = CHUNKS
            granted = Hop(STATUS, Status.OK, limit=self._limit(), load=self._load())
            await source.write(framed(write_hop(granted)))
            with trio.move_on_after(self._terms.circuit_s):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass, opened, source, target, ahead, nursery.cancel_scope)
                    nursery.start_soon(self._pass, opened, target, source, behind, nursery.cancel_scope)
        except TetherError as error:
            _log.debug("relay.circuit_failed", source=source.peer, target=target_peer, cause=error.code.name)
            await source.reset()
        finally:
            self.slots.close(opened)
            if target is not None:
                await target.reset()

    async def _call(self, opened: Opened) -> tuple[MuxedStream, bytes]:
        """Ask the target to take the circuit. Raises Refused."""
        try:
            target, _ = await self._switch.open(opened.target, [STOP], CHUNKS)
            request = write_stop(Stop(STOP_CONNECT, peer=opened.source, limit=self._limit()))
            answer, behind = await ask(target, request, read_stop)
        except TetherError as error:
            raise Refused(Status.CONNECTION_FAILED) from error
        if answer.kind != STOP_STATUS or answer.status is not Status.OK:
            await target.reset()
            raise Refused(Status.CONNECTION_FAILED)
        return target, behind

    async def _pass(
        self, opened: Opened, source: MuxedStream, target: MuxedStream, data: bytes, both: trio.CancelScope
    ) -> None:
        """One direction, until its end; a direction that breaks, or a limit, ends the other one too."""
        try:
            data = data or await source.read(READ_BYTES)
            while data:
                if not opened.spend(len(data)):
                    both.cancel()
                wait_s = self._bandwidth.take(len(data), trio.current_time())
                if wait_s:
                    await trio.sleep(wait_s)
                await target.write(data)
                data = await source.read(READ_BYTES)
            await target.close()
        except TetherError:
            both.cancel()

    def _limit(self) -> Limit:
        return Limit(int(self._terms.circuit_s), self._terms.circuit_bytes)

    def _load(self) -> float:
        return max(self.slots.load(), self._bandwidth.load(trio.current_time()))


async def _answer(stream: MuxedStream, hop: Hop) -> None:
    """Say it, and wait until it was read: a reset would overtake it."""
    try:
        with trio.move_on_after(ANSWER_S):
            await stream.write(framed(write_hop(hop)))
            await stream.close()
            while await stream.read(READ_BYTES):
                pass
    except TetherError:
        return
