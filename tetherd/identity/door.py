"""The admin API for operators on other machines: behind the shim's /admin, by key or token and by role."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from p2p.errors import FORBIDDEN, NOT_FOUND, UNAUTHENTICATED, TetherError
from tetherd.identity.roles import PERMISSIONS, needed, permissions_of
from tetherd.identity.tokens import Tokens, looks_like_token
from tetherd.tenants.keys import MARK, read_key
from tetherd.tenants.register import Register

_MINE: Final = "tether.permissions"
_log: Final = structlog.get_logger()


class Known(Protocol):
    """`tetherd.tenants.desk.TenantDesk`."""

    @property
    def register(self) -> Register: ...


class Door:
    """An ASGI application that lets through who may; closed until `open` is called. now: unix seconds."""

    def __init__(self, desk: Known, tokens: Tokens | None, *, now: Callable[[], float]) -> None:
        self._desk = desk
        self._tokens = tokens
        self._now = now
        self._admin: ASGIApp | None = None

    def open(self, admin: ASGIApp) -> None:
        self._admin = admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        try:
            admin = await self._let_in(request)
        except TetherError as error:
            failure = {"code": error.code.name, "message": error.message, "field": error.field}
            body = msgspec.json.encode({"error": failure})
            await Response(body, error.code.status, media_type="application/json")(scope, receive, send)
        else:
            await admin(scope, receive, send)

    async def _let_in(self, request: Request) -> ASGIApp:
        """Raises TetherError(NOT_FOUND | UNAUTHENTICATED | TENANT_FORBIDDEN | FORBIDDEN | ISSUER_UNAVAILABLE)."""
        if self._admin is None:
            raise TetherError(NOT_FOUND, "Only a node with the orchestrator role answers operators here.")
        who, mine = await self._who(request.headers.get("authorization", ""))
        path = str(request.scope["path"]).removeprefix(str(request.scope.get("root_path", "")))
        permission = needed(request.method, path)
        if permission is None:
            raise TetherError(NOT_FOUND, "There is nothing of that name for operators.")
        if permission not in mine:
            _log.warning("operator.refused", who=who, permission=permission)
            detail = f"This needs {permission}, which neither a role nor a scope of this credential gives."
            raise TetherError(FORBIDDEN, detail, field="Authorization")
        if request.method == "POST":
            _log.info("operator.asked", who=who, permission=permission, path=path[:200])
        request.scope[_MINE] = mine
        return self._admin

    async def _who(self, header: str) -> tuple[str, frozenset[str]]:
        """By what logs may name them, and what they may do."""
        scheme, _, shown = header.partition(" ")
        shown = shown.strip()
        if scheme.lower() == "bearer" and shown.startswith(MARK):
            key = self._desk.register.check_shown(read_key(shown), self._now())
            return key.key_id, permissions_of(key.scopes)
        if scheme.lower() == "bearer" and self._tokens is not None and looks_like_token(shown):
            claims = await self._tokens.check(shown)
            self._desk.register.check_tenant(claims.tenant)
            return f"oidc:{claims.tenant}", permissions_of(claims.scopes or ())
        raise TetherError(UNAUTHENTICATED, "Operators show an API key or a token.", field="Authorization")


def mine_of(request: Request) -> frozenset[str]:
    """What whoever sent this may do: on the control socket, which only its owner can open, everything."""
    mine: frozenset[str] = request.scope.get(_MINE, PERMISSIONS)
    return mine
