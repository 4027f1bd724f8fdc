"""One client's connection: HTTP/1.1 by h11 on a trio stream, for an ASGI application (ASGI 3.0).

waiting ──a whole head──> answering ──the application returns──> waiting
   └─ KEEP_ALIVE_S, HEAD_S, told to go     └─ not read or answered to its end ──> closed
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import h11
import trio
from starlette.types import ASGIApp

from p2p.errors import TetherError
from p2p.supervised import supervised
from tetherd.http.cycle import Cycle, Lost

KEEP_ALIVE_S: Final = 15.0
"""For the next request. Clients give a connection up after 5 s and more; whoever does so last loses no request."""
HEAD_S: Final = 10.0
"""From a head's first byte to its last: heads that trickle in must not fill the table of connections."""
LINGER_S: Final = 5.0
"""How long is read what nobody wants: closed before that, its sender would not see the answer."""
CLOSE_S: Final = 1.0
MAX_HEAD_BYTES: Final = 64 * 1024
READ_BYTES: Final = 64 * 1024


class Connection:
    """scheme: http or https; stopping: whether this connection's server takes no more requests."""

    def __init__(
        self, app: ASGIApp, stream: trio.abc.Stream, scheme: str, stopping: Callable[[], bool]
    ) -> None:
        self._app = app
        self._stream = stream
        self._scheme = scheme
        self._stopping = stopping
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._waiting = trio.CancelScope()
        self._lost = False

    def let_go(self) -> None:
        """End it at once if no request is under way; after that otherwise."""
        self._waiting.cancel()

    async def run(self) -> None:
        """Answer request after request, until the client leaves or has to."""
        try:
            while not self._stopping() and (request := await self._request()) is not None:
                if not await self._answer(request):
                    break
        except Lost:
            pass
        finally:
            with trio.move_on_after(CLOSE_S), suppress(trio.BrokenResourceError):
                await self._stream.aclose()

    async def read(self) -> bytes:
        """Some bytes; none at the client's end. Raises Lost."""
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
            raise Lost from error

    async def write(self, data: bytes) -> None:
        """Nothing is sent once the client is lost; cancelled in the middle, this connection has said its last word."""
        if self._lost:
            return
        self._lost = True
        try:
            if sent := self._write_now(data):
                data = data[sent:]
            if data:
                await self._stream.send_all(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            return
        self._lost = False

    def _write_now(self, data: bytes) -> int:
        """How much the kernel takes at once: trio's own send costs a turn of the loop for each piece."""
        if not isinstance(self._stream, trio.SocketStream):
            return 0
        try:
            return os.write(self._stream.socket.fileno(), data)
        except BlockingIOError:
            return 0

    # ── A request ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _request(self) -> h11.Request | None:
        """The next head. None: there is none; who sent something else instead was told so."""
        http = self._http
        with trio.CancelScope(deadline=trio.current_time() + KEEP_ALIVE_S) as self._waiting:
            try:
                while (event := http.next_event()) is h11.NEED_DATA:
                    begun = bool(http.trailing_data[0])
                    http.receive_data(await self.read())
                    if not begun:
                        self._waiting.deadline = trio.current_time() + HEAD_S
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint)
                return None
            return event if isinstance(event, h11.Request) else None
        return None

    async def _answer(self, request: h11.Request) -> bool:
        """Have the application answer. Returns whether another request may follow."""
        http = self._http
        closes = self._stopping() or any(name == b"upgrade" for name, _ in request.headers)
        cycle = Cycle(self, http, request, self._scheme, closes=closes)
        with suppress(TetherError):
            await supervised(self._app(cycle.scope, cycle.receive, cycle.send), "http.crashed")
        if cycle.left:
            return False
        if http.our_state is h11.SEND_RESPONSE:
            await self._refuse(500)
        with trio.move_on_after(LINGER_S):
            await cycle.read_to_end()
        if self._lost or http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            return False
        http.start_next_cycle()
        return True

    async def _refuse(self, status: int) -> None:
        """To what is no request, and for an application that has no answer. Then its sender may go on for a while."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        headers = [("content-length", "0"), ("connection", "close")]
        head = self._http.send(h11.Response(status_code=status, headers=headers)) or b""
        await self.write(head + (self._http.send(h11.EndOfMessage()) or b""))
        if isinstance(self._stream, trio.SocketStream) and not self._lost:
            with trio.move_on_after(LINGER_S):
                with suppress(trio.BrokenResourceError):
                    await self._stream.send_eof()
                while await self.read():
                    pass
