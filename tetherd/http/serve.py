"""Hypercorn on trio, embedded: on a TCP port for clients, on a Unix socket for tetherctl."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, cast

import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio import serve as hypercorn_serve
from starlette.applications import Starlette

from p2p.errors import ADDRESS_IN_USE, CONFIG_INVALID, TetherError

GRACEFUL_S: Final = 3.0
UNREAD_MS: Final = 10_000
"""A client that stops reading is cut off then: hypercorn shields its sends, so its shutdown would wait for ever."""
BACKLOG: Final = 256


async def serve(
    app: Starlette,
    host: str,
    port: int,
    *,
    stop: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until stop returns; started with the base URL. Raises TetherError(ADDRESS_IN_USE | CONFIG_INVALID)."""
    listener = _listen_tcp(host, port)
    bound = listener.getsockname()
    name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
    await _serve(app, listener, stop, lambda: task_status.started(f"http://{name}:{bound[1]}"))


async def serve_unix(
    app: Starlette,
    path: Path,
    *,
    stop: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on a socket that only its owner can open, until stop returns."""
    await _serve(app, _listen_unix(path), stop, task_status.started)


def _listen_unix(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        detail = f"Cannot make {path}: {error.strerror or error}."
        raise TetherError(CONFIG_INVALID, detail, field="data_dir") from error
    finally:
        os.umask(mask)
    return listener


def _listen_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise TetherError(ADDRESS_IN_USE, f"{host}:{port} is in use.", field="http.bind") from error
        detail = f"Cannot listen on {host}:{port}: {error.strerror or error}."
        raise TetherError(CONFIG_INVALID, detail, field="http.bind") from error
    return listener


async def _serve(
    app: Starlette, listener: socket.socket, stop: Callable[[], Awaitable[None]], started: Callable[[], None]
) -> None:
    listener.listen(BACKLOG)
    listener.setblocking(False)

    async def report(*, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        await hypercorn_serve(
            cast(Any, app), _Config(listener), shutdown_trigger=stop, task_status=task_status, mode="asgi"
        )

    async with trio.open_nursery() as nursery:
        await nursery.start(report)
        started()


class _Config(Config):
    """Hypercorn's settings around a socket that is bound already."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__()
        self._listener = listener
        self.graceful_timeout = GRACEFUL_S
        self.accesslog = None
        self.errorlog = logging.getLogger("hypercorn.error")
        self.include_server_header = False
        self.h11_max_incomplete_size = 64 * 1024

    def create_sockets(self) -> Sockets:
        return Sockets([], [self._listener], [])
