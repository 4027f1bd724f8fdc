"""What this node knows of its own reachability, and over what each of its connections runs.

`Reach` is the seam between who finds out (AutoNAT) and who acts on it: a public node offers to relay, a private one
keeps reservations with relays.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import trio

from p2p.host.addresses import TcpAddress
from p2p.host.raw import Carried, Pipe
from p2p.identity import PeerId


class Reachability(Enum):
    """Whether strangers' dials arrive."""

    UNKNOWN = "unknown"
    PUBLIC = "public"
    PRIVATE = "private"


class Reach:
    """The verdict of the moment."""

    def __init__(self) -> None:
        self._verdict = Reachability.UNKNOWN
        self._news = trio.lowlevel.ParkingLot()

    @property
    def verdict(self) -> Reachability:
        return self._verdict

    def found(self, verdict: Reachability) -> None:
        if verdict is not self._verdict:
            self._verdict = verdict
            self._news.unpark_all()

    async def changed(self) -> None:
        """Wait for another verdict than that of now."""
        await self._news.park()


@dataclass(frozen=True, slots=True)
class Path:
    """Over what a connection runs. relay: by whom it is passed on, None for a direct one; outbound: dialled here.

    local, remote: the two ends of its socket as this side sees them.
    """

    relay: PeerId | None = None
    local: TcpAddress | None = None
    remote: TcpAddress | None = None
    outbound: bool = False


UNKNOWN_PATH = Path()


def path_of(stream: Pipe, *, outbound: bool = False) -> Path:
    """Of a connection over stream. A socket whose peer has gone has no ends any more."""
    if isinstance(stream, Carried):
        return Path(stream.relay, outbound=outbound)
    if isinstance(stream, trio.SocketStream):
        try:
            local, remote = _end(stream.socket.getsockname()), _end(stream.socket.getpeername())
            return Path(None, local, remote, outbound)
        except OSError:
            return UNKNOWN_PATH
    return UNKNOWN_PATH


def _end(name: tuple[object, ...]) -> TcpAddress:
    host, port = str(name[0]).partition("%")[0], int(str(name[1]))
    mapped = host.removeprefix("::ffff:") if "." in host else host
    return TcpAddress("ip6" if ":" in mapped else "ip4", mapped, port)
