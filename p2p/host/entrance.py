"""Taking connections from listening sockets: no more in a second than a node can shake hands with.

What comes faster waits in the kernel's queue, and beyond that gets no answer there, so that a flood costs this node's
connections nothing. Whoever is not let in is closed at once, before there is a task.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from p2p.host.raw import Carried, Pipe
from p2p.host.scores import network_of

ACCEPTS_PER_S: Final = 400.0
"""A whole handshake takes a core about a millisecond and a half; those that stand need the rest of it."""
BURST: Final = 200
"""As many as that at once, after a pause: a region's daemons that dial a node which came back."""
FULL_S: Final = 0.1
"""Until another try while this process has no descriptor left."""
TOLD_S: Final = 10.0
_FULL: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)

_log: Final = structlog.get_logger()


class Turns:
    """When the next one is due, by the generic cell rate algorithm (ITU-T I.371). Pure; seconds of one clock."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._apart_s = 1.0 / per_s
        self._ahead_s = (burst - 1) * self._apart_s
        self._even_s = 0.0

    def next_s(self, now_s: float) -> float:
        """Take a turn, and learn when it is: now, or later."""
        even_s = max(self._even_s, now_s)
        self._even_s = even_s + self._apart_s
        return max(now_s, even_s - self._ahead_s)


class Entrance:
    """Of all listening sockets of a host. lets_in: asked before there is a task; carry: a connection, to its end."""

    def __init__(self, lets_in: Callable[[Pipe], bool], carry: Callable[[Pipe], Awaitable[None]]) -> None:
        self._lets_in = lets_in
        self._carry = carry
        self._turns = Turns(ACCEPTS_PER_S, BURST)
        self._turned_away = 0
        self._told_s = 0.0

    async def serve(self, listener: trio.abc.Listener[trio.SocketStream]) -> None:
        """Take from this socket until cancelled. Raises OSError if it breaks."""
        async with trio.open_nursery() as nursery:
            while True:
                stream = await self._next(listener)
                if self._lets_in(stream):
                    nursery.start_soon(self._through, stream)
                else:
                    await trio.aclose_forcefully(stream)
                    self._note()
                await trio.sleep_until(self._turns.next_s(trio.current_time()))

    async def _next(self, listener: trio.abc.Listener[trio.SocketStream]) -> trio.SocketStream:
        while True:
            try:
                return await listener.accept()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                _log.warning("no descriptor is left for a connection", cause=error.strerror)
            await trio.sleep(FULL_S)

    async def _through(self, stream: trio.SocketStream) -> None:
        try:
            await self._carry(stream)
        finally:
            await trio.aclose_forcefully(stream)

    def _note(self) -> None:
        """A line now and then: one for each would make the log the attacker's."""
        self._turned_away += 1
        now_s = trio.current_time()
        if now_s >= self._told_s + TOLD_S:
            _log.info("strangers turned away", count=self._turned_away)
            self._turned_away, self._told_s = 0, now_s


def origin_of(raw: Pipe) -> str:
    """Who is to blame for a connection before it has proven who it is: a network, or what a relay says."""
    if isinstance(raw, Carried):
        return raw.origin
    if not isinstance(raw, trio.SocketStream):
        return "elsewhere"
    try:
        return network_of(str(raw.socket.getpeername()[0]))
    except OSError:
        return "gone"
