"""The two ends of a circuit: who opens it, and who holds the reservation by which it comes."""

from __future__ import annotations

import errno
from collections.abc import Callable

import trio

from p2p.errors import TetherError
from p2p.host.addresses import CircuitAddress
from p2p.host.framing import framed
from p2p.host.relay.asking import ANSWER_S, ask, listen
from p2p.host.relay.circuit import Circuit
from p2p.host.relay.wire import (
    CONNECT,
    HOP,
    STATUS,
    STOP,
    STOP_CONNECT,
    STOP_STATUS,
    Hop,
    Status,
    Stop,
    read_hop,
    read_stop,
    write_hop,
    write_stop,
)
from p2p.host.streams import MuxedStream, unreachable
from p2p.host.switch import Switch
from p2p.identity import PeerId
from p2p.transport import CHUNKS, PeerAddress


async def hop_stream(switch: Switch, relay: PeerId, addresses: tuple[str, ...]) -> MuxedStream:
    """Raises TetherError. A relay is reached directly: circuits are not nested."""
    await switch.connect(PeerAddress(relay, addresses), circuits=False)
    path = switch.path(relay)
    if path is None or path.relay is not None:
        raise unreachable(f"{relay} is not connected directly.")
    stream, _ = await switch.open(relay, [HOP], CHUNKS)
    return stream


class Opener:
    """Opens circuits: what a `Ways` calls `through`."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    async def open(self, address: CircuitAddress, peer: PeerId) -> Circuit:
        """Raises OSError."""
        if self._switch.own in (address.relay, peer) or address.relay == peer:
            raise _unreachable("no circuit leads there")
        try:
            stream = await hop_stream(self._switch, address.relay, (str(address.at),))
            answer, ahead = await ask(stream, write_hop(Hop(CONNECT, peer=peer)), read_hop)
        except TetherError as error:
            raise _unreachable(f"relay {address.relay} is out of reach") from error
        if answer.kind != STATUS or answer.status is not Status.OK:
            await stream.reset()
            raise _unreachable(f"relay {address.relay} says {answer.status.name}")
        return Circuit(stream, ahead, peer)


class StopService:
    """Takes circuits from relays that this node has asked for it. expected: whether it has."""

    def __init__(self, switch: Switch, expected: Callable[[PeerId], bool]) -> None:
        self._switch = switch
        self._expected = expected
        switch.handle_raw(STOP, self._serve)

    async def _serve(self, stream: MuxedStream, _protocol: str) -> None:
        try:
            with trio.fail_after(ANSWER_S):
                stop, ahead = await listen(stream, read_stop)
                if stop.kind != STOP_CONNECT or stop.peer is None:
                    await _refuse(stream, Status.UNEXPECTED_MESSAGE)
                    return
                if not self._expected(stream.peer):
                    await _refuse(stream, Status.PERMISSION_DENIED)
                    return
                await stream.write(framed(write_stop(Stop(STOP_STATUS, Status.OK))))
        except (TetherError, trio.TooSlowError):
            return
        await self._switch.accept(Circuit(stream, ahead, stop.peer))


def _unreachable(why: str) -> OSError:
    return OSError(errno.EHOSTUNREACH, why)


async def _refuse(stream: MuxedStream, status: Status) -> None:
    await stream.write(framed(write_stop(Stop(STOP_STATUS, status))))
    await stream.close()
    await stream.read(1)
