"""Tenants and keys on the admin socket."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec.structs import asdict
from starlette.requests import Request
from starlette.routing import Route

from p2p.errors import FIELD_INVALID, TetherError
from tetherd.admin import Json, answered, read
from tetherd.identity.door import mine_of
from tetherd.identity.roles import check_grant
from tetherd.tenants.desk import DEFAULT_OVERLAP_S, TenantDesk


class _Order(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class TenantOrder(_Order, frozen=True):
    tenant: str
    name: str = ""


class KeyOrder(_Order, frozen=True):
    """ttl_s: seconds; None: until it is revoked."""

    tenant: str
    scopes: tuple[str, ...] = ()
    ttl_s: float | None = None


class LimitsOrder(_Order, frozen=True):
    """None: as it is; 0: no such limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_month: int | None = None
    concurrency: int | None = None
    budget: int | None = None
    weight: int | None = None

    def changes(self) -> dict[str, int]:
        return {name: value for name, value in asdict(self).items() if value is not None}


class PolicyOrder(_Order, frozen=True):
    """None: as it is; numbers below 0 and empty lists: no such rule. audit_consent: since when, unix seconds."""

    model: str
    tenant: str = ""
    allow_tenants: tuple[str, ...] | None = None
    deny_tenants: tuple[str, ...] | None = None
    regions: tuple[str, ...] | None = None
    workers: tuple[str, ...] | None = None
    max_tokens: int | None = None
    prompt_price: int | None = None
    output_price: int | None = None
    audit_consent: float | None = None
    clear: bool = False

    def changes(self) -> dict[str, Any]:
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return {} if self.clear else {name: said[name] for name in said if name not in _NO_CHANGE}


_NO_CHANGE: Final = ("model", "tenant", "clear")


class RotateOrder(_Order, frozen=True):
    overlap_s: float = DEFAULT_OVERLAP_S


def tenant_routes(desk: TenantDesk) -> list[Route]:
    async def tenants(_request: Request) -> Json:
        return desk.tenants()

    async def create(request: Request) -> Json:
        order = await read(request, TenantOrder)
        return await desk.create_tenant(order.tenant, order.name)

    async def show(request: Request) -> Json:
        return desk.tenant(_named(request))

    async def disable(request: Request) -> Json:
        return await desk.set_disabled(_named(request), True)

    async def enable(request: Request) -> Json:
        return await desk.set_disabled(_named(request), False)

    async def limit(request: Request) -> Json:
        return await desk.limit_tenant(_named(request), (await read(request, LimitsOrder)).changes())

    async def limit_key(request: Request) -> Json:
        return await desk.limit_key(_named(request), (await read(request, LimitsOrder)).changes())

    async def keys(request: Request) -> Json:
        return desk.keys(request.query_params.get("tenant", ""))

    async def create_key(request: Request) -> Json:
        order = await read(request, KeyOrder)
        check_grant(mine_of(request), order.scopes)
        return await desk.create_key(order.tenant, scopes=order.scopes, ttl_s=order.ttl_s)

    async def rotate(request: Request) -> Json:
        order = await read(request, RotateOrder)
        check_grant(mine_of(request), desk.scopes_of(_named(request)))
        return await desk.rotate_key(_named(request), overlap_s=order.overlap_s)

    async def revoke(request: Request) -> Json:
        return await desk.revoke_key(_named(request))

    async def policies(_request: Request) -> Json:
        return desk.policies()

    async def set_policy(request: Request) -> Json:
        order = await read(request, PolicyOrder)
        changes = order.changes()
        if not changes and not order.clear:
            raise TetherError(FIELD_INVALID, "The order changes nothing.", field="model")
        return await desk.set_policy(order.model, order.tenant, changes)

    return [
        Route("/policies", answered(policies), methods=["GET"]),
        Route("/policies", answered(set_policy), methods=["POST"]),
        Route("/tenants", answered(tenants), methods=["GET"]),
        Route("/tenants", answered(create), methods=["POST"]),
        Route("/tenants/{name}", answered(show)),
        Route("/tenants/{name}/disable", answered(disable), methods=["POST"]),
        Route("/tenants/{name}/enable", answered(enable), methods=["POST"]),
        Route("/tenants/{name}/limits", answered(limit), methods=["POST"]),
        Route("/keys/{name}/limits", answered(limit_key), methods=["POST"]),
        Route("/keys", answered(keys), methods=["GET"]),
        Route("/keys", answered(create_key), methods=["POST"]),
        Route("/keys/{name}/rotate", answered(rotate), methods=["POST"]),
        Route("/keys/{name}/revoke", answered(revoke), methods=["POST"]),
    ]


def _named(request: Request) -> str:
    name: Any = request.path_params["name"]
    return str(name)
