"""Who may speak to the shim from a browser: Host and Origin, checked before any route.

A keyless server on loopback is open to every web page whose name an attacker rebinds to 127.0.0.1. The Host header
then carries that name, and the Origin header the page's: both are refused. A page whose origin is allowed gets what
its browser asks for to let it through (the CORS headers of the Fetch standard).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p2p.errors import HOST_FORBIDDEN, ORIGIN_FORBIDDEN, TetherError
from tetherd.http.responses import error_bytes

_Headers = list[tuple[bytes, bytes]]

_LOCAL_NAMES: Final = frozenset({"localhost"})
_PREFLIGHT: Final[_Headers] = [
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-private-network", b"true"),
    (b"access-control-max-age", b"600"),
]


@dataclass(frozen=True, slots=True)
class Guard:
    """hosts: names besides loopback; origins: web pages besides the shim's own."""

    hosts: Collection[str] = ()
    origins: Collection[str] = ()

    def check(self, host: str | None, origin: str | None) -> None:
        """Raises TetherError(HOST_FORBIDDEN | ORIGIN_FORBIDDEN). host, origin: the headers, None when absent."""
        if host is None or not self._is_ours(host):
            raise TetherError(HOST_FORBIDDEN, "The Host header names another server.", field="Host")
        if origin is not None and origin not in self.origins and not self._is_same(origin, host):
            raise TetherError(
                ORIGIN_FORBIDDEN, "A web page of another origin may not call this shim.", field="Origin"
            )

    def _is_ours(self, host: str) -> bool:
        name = host_name(host)
        return name is not None and (name in _LOCAL_NAMES or name in self.hosts or is_loopback_ip(name))

    def _is_same(self, origin: str, host: str) -> bool:
        return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


class GuardMiddleware:
    """Refuses a request before the application sees it."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = _one(scope["headers"], b"origin")
        try:
            self._guard.check(_one(scope["headers"], b"host"), origin)
        except TetherError as error:
            await _answer(
                send, error.code.status, [(b"content-type", b"application/json")], error_bytes(error)
            )
            return
        if origin is None or origin not in self._guard.origins:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and _one(scope["headers"], b"access-control-request-method"):
            wanted = _one(scope["headers"], b"access-control-request-headers") or ""
            headers = (b"access-control-allow-headers", wanted.encode("latin-1"))
            await _answer(send, 204, [*_allowed(origin), *_PREFLIGHT, headers])
        else:
            await self._app(scope, receive, _with_headers(send, _allowed(origin)))


def _allowed(origin: str) -> _Headers:
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"x-tether-job, x-tether-worker, x-tether-region, retry-after"),
        (b"vary", b"origin"),
    ]


def _with_headers(send: Send, headers: _Headers) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *headers]}
        await send(message)

    return sending


async def _answer(send: Send, status: int, headers: _Headers, body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def host_name(host: str) -> str | None:
    """The name in a Host header, without port and brackets; None for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return parts.hostname


def is_loopback_ip(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _one(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """A header's only value; two of them are as bad as a wrong one."""
    values = [value for key, value in headers if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else ("" if values else None)
