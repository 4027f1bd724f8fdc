"""Serving an application over HTTP/1.1: on a TCP port for clients, on a Unix socket for tetherctl.

A client may read as slowly as it likes; at the end those that are left are cut.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio
from starlette.applications import Starlette

from p2p.errors import ADDRESS_IN_USE, CONFIG_INVALID, TetherError
from tetherd.http.connection import Connection

GRACEFUL_S: Final = 3.0
"""Once told to stop, how long answers that are under way may take to end."""
BACKLOG: Final = 256
HANDSHAKE_S: Final = 10.0
MAX_CONNECTIONS: Final = 2_048
"""Beyond that a new connection is closed at once: file descriptors are needed for peers, too."""


async def serve(
    app: Starlette,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    *,
    stop: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until stop returns; started with the base URL. Raises TetherError(ADDRESS_IN_USE | CONFIG_INVALID)."""
    listener = _listen_tcp(host, port)
    bound = listener.getsockname()
    name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
    scheme = "https" if tls else "http"
    url = f"{scheme}://{name}:{bound[1]}"
    await _serve(app, listener, stop, lambda: task_status.started(url), tls)


async def serve_unix(
    app: Starlette,
    path: Path,
    *,
    stop: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on a socket that only its owner can open, until stop returns. Raises TetherError(CONFIG_INVALID)."""
    listener = _listen_unix(path)
    try:
        await _serve(app, listener, stop, task_status.started)
    finally:
        _remove(path)


def until_set(server: Callable[..., Awaitable[None]], *where: object) -> Callable[..., Awaitable[None]]:
    """A server as a nursery starts it; its last argument is the event that ends it."""
    *arguments, stop = where
    assert isinstance(stop, trio.Event)
    return partial(server, *arguments, stop=stop.wait)


def _listen_tcp(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise TetherError(ADDRESS_IN_USE, f"{host}:{port} is in use.", field="http.bind") from error
        detail = f"Cannot listen on {host}:{port}: {error.strerror or error}."
        raise TetherError(CONFIG_INVALID, detail, field="http.bind") from error
    return listener


def _listen_unix(path: Path) -> socket.socket:
    """The mode is set before the bind, so that there is no moment in which others may connect."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
        os.fchmod(listener.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        detail = f"Cannot make {path}: {error.strerror or error}."
        raise TetherError(CONFIG_INVALID, detail, field="data_dir") from error
    return listener


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _serve(
    app: Starlette,
    listener: socket.socket,
    stop: Callable[[], Awaitable[None]],
    started: Callable[[], None],
    tls: ssl.SSLContext | None = None,
) -> None:
    listener.setblocking(False)
    connections = _Connections(app, tls)
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as accepting:
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
            accepting.start_soon(
                partial(trio.serve_listeners, connections.answer, listeners, handler_nursery=nursery)
            )
            started()
            await stop()
            accepting.cancel_scope.cancel()
        with trio.move_on_after(GRACEFUL_S):
            await connections.finish()
        nursery.cancel_scope.cancel()


class _Connections:
    """The clients that are connected."""

    def __init__(self, app: Starlette, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._app = app
        self._open: set[Connection] = set()
        self._stopping = False
        self._none_left = trio.Event()

    async def answer(self, stream: trio.SocketStream) -> None:
        """Serve one client until it leaves."""
        if len(self._open) >= MAX_CONNECTIONS:
            await stream.aclose()
            return
        over: trio.abc.Stream = stream
        if self._tls is not None:
            over = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
        connection = Connection(self._app, over, "https" if self._tls else "http", lambda: self._stopping)
        self._open.add(connection)
        try:
            if not isinstance(over, trio.SSLStream) or await _shaken(over):
                await connection.run()
        finally:
            self._open.discard(connection)
            if not self._open:
                self._none_left.set()

    async def finish(self) -> None:
        """Let go of idle clients, and wait for those that are being answered."""
        self._stopping = True
        for connection in self._open:
            connection.let_go()
        while self._open:
            self._none_left = trio.Event()
            await self._none_left.wait()


async def _shaken(stream: trio.SSLStream[trio.SocketStream]) -> bool:
    """Whether the client speaks TLS as we do, and in time."""
    with trio.move_on_after(HANDSHAKE_S):
        try:
            await stream.do_handshake()
            return True
        except (trio.BrokenResourceError, ssl.SSLError):
            pass
    await trio.aclose_forcefully(stream)
    return False
