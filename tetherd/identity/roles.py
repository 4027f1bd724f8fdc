"""What operators may do, by role and by single scope. Pure; the tables are the rules.

    viewer     sees everything that is no secret
    operator   keeps it running: dead letters, models, draining
    admin      says who belongs: tenants, keys, policies, tickets, publishers

A key's or a token's scopes name roles or single permissions (`usage:read`). Scopes of clients (`infer`, `model:NAME`)
and none at all permit nothing here: a tenant's key is no operator's. Whoever makes keys can give no more than it has
itself. What is not in the table nobody may do over the network. The owner of the control socket may do everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

from p2p.errors import TENANT_FORBIDDEN, TetherError

TABLE: Final[Mapping[tuple[str, str], str]] = {
    ("GET", "/status"): "node:read",
    ("GET", "/nodes"): "node:read",
    ("GET", "/models"): "node:read",
    ("POST", "/drain"): "node:write",
    ("POST", "/invite"): "swarm:write",
    ("GET", "/jobs"): "jobs:read",
    ("GET", "/jobs/{job}"): "jobs:read",
    ("GET", "/dlq"): "dlq:read",
    ("GET", "/dlq/{job}"): "dlq:read",
    ("POST", "/dlq/{job}/retry"): "dlq:write",
    ("POST", "/dlq/{job}/drop"): "dlq:write",
    ("GET", "/usage/"): "usage:read",
    ("GET", "/usage/receipts"): "usage:read",
    ("GET", "/usage/rows"): "usage:read",
    ("GET", "/usage/webhook"): "usage:read",
    ("POST", "/usage/webhook"): "usage:write",
    ("GET", "/policies"): "policies:read",
    ("POST", "/policies"): "policies:write",
    ("GET", "/tenants"): "tenants:read",
    ("POST", "/tenants"): "tenants:write",
    ("GET", "/tenants/{name}"): "tenants:read",
    ("POST", "/tenants/{name}/disable"): "tenants:write",
    ("POST", "/tenants/{name}/enable"): "tenants:write",
    ("POST", "/tenants/{name}/limits"): "tenants:write",
    ("GET", "/keys"): "tenants:read",
    ("POST", "/keys"): "tenants:write",
    ("POST", "/keys/{name}/limits"): "tenants:write",
    ("POST", "/keys/{name}/rotate"): "tenants:write",
    ("POST", "/keys/{name}/revoke"): "tenants:write",
    ("GET", "/catalogue"): "models:read",
    ("GET", "/catalogue/{model}"): "models:read",
    ("GET", "/copies"): "models:read",
    ("GET", "/cache"): "models:read",
    ("GET", "/work/{name}"): "models:read",
    ("GET", "/work/{name}/events"): "models:read",
    ("POST", "/catalogue/{model}/retire"): "swarm:write",
    ("POST", "/alias"): "swarm:write",
    ("POST", "/trust"): "swarm:write",
    ("POST", "/publish"): "swarm:write",
    ("POST", "/pull"): "models:write",
    ("POST", "/cache/pin/{model}"): "models:write",
    ("POST", "/cache/gc"): "models:write",
    ("POST", "/cache/verify"): "models:write",
}
"""What a request to the admin API needs. Publishing reads a file of the node's disk and signs with its key."""
PERMISSIONS: Final = frozenset(TABLE.values())
_VIEWER: Final = frozenset(one for one in PERMISSIONS if one.endswith(":read"))
_OPERATOR: Final = _VIEWER | {"node:write", "dlq:write", "usage:write", "models:write"}
ROLES: Final[Mapping[str, frozenset[str]]] = {
    "viewer": _VIEWER,
    "operator": _OPERATOR,
    "admin": PERMISSIONS,
}


def permissions_of(scopes: Iterable[str]) -> frozenset[str]:
    """What these allow together."""
    given = frozenset(scopes)
    of_roles = (ROLES[scope] for scope in given & ROLES.keys())
    return (given & PERMISSIONS).union(*of_roles)


def is_operator_scope(scope: str) -> bool:
    return scope in ROLES or scope in PERMISSIONS


def needed(method: str, path: str) -> str | None:
    """The permission for a request; None: there is no such thing to ask for."""
    for (name, pattern), permission in _patterns().items():
        if name == ("GET" if method == "HEAD" else method) and pattern.fullmatch(path):
            return permission
    return None


def check_grant(mine: frozenset[str], scopes: Iterable[str]) -> None:
    """Whether somebody with these permissions may give a key these scopes. Raises TetherError(TENANT_FORBIDDEN)."""
    if beyond := sorted(permissions_of(scopes) - mine):
        detail = f"A key with {', '.join(beyond)} can only be made by somebody who has that."
        raise TetherError(TENANT_FORBIDDEN, detail, field="scopes")


@cache
def _patterns() -> dict[tuple[str, re.Pattern[str]], str]:
    return {
        (method, re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))): permission
        for (method, path), permission in TABLE.items()
    }
