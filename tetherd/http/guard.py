"""Who may speak to the shim from a browser: Host and Origin, checked before any route.

A keyless server on loopback is open to every web page whose name an attacker rebinds to 127.0.0.1. The Host header
then carries that name, and the Origin header the page's: both are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from p2p.errors import HOST_FORBIDDEN, ORIGIN_FORBIDDEN, TetherError
from tetherd.http.responses import error_bytes

_LOCAL_NAMES: Final = frozenset({"localhost"})


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
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


class GuardMiddleware:
    """Refuses a request before the application sees it."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._guard.check(_one(scope["headers"], b"host"), _one(scope["headers"], b"origin"))
        except TetherError as error:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": error.code.status, "headers": headers})
            await send({"type": "http.response.body", "body": error_bytes(error)})
            return
        await self._app(scope, receive, send)


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
