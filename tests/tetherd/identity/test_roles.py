"""Who may do what: every route, every role, every scope; and the door that keeps to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route

from p2p.errors import TENANT_FORBIDDEN, UNAUTHENTICATED, TetherError
from p2p.membership import SwarmId
from tests.tetherd.http.scripted import ScriptedInference
from tests.tetherd.test_admin import FakeOperator
from tetherd.admin import build_admin
from tetherd.dead_letters.routes import letter_routes
from tetherd.http.app import HttpSettings, build_app
from tetherd.identity.door import Door, mine_of
from tetherd.identity.roles import PERMISSIONS, ROLES, TABLE, check_grant, needed, permissions_of
from tetherd.identity.tokens import Claims
from tetherd.registry.desk import library_routes
from tetherd.tenants.desk import MemoryKeeper, TenantDesk
from tetherd.tenants.routes import tenant_routes
from tetherd.usage.routes import usage_routes

NOBODY: Any = cast(Any, None)
CLIENTS = ((), ("infer",), ("model:tiny",), ("infer", "model:tiny"))


def all_routes() -> set[tuple[str, str]]:
    """What a daemon with every role serves on its control socket."""
    more = [
        *library_routes(cast(Any, SimpleNamespace(errands=None))),
        *letter_routes(NOBODY, NOBODY),
        *tenant_routes(NOBODY),
        usage_routes(NOBODY, SwarmId("swarm")),
    ]
    return set(_flat(build_admin(FakeOperator(), more).routes, ""))


def _flat(routes: Iterable[BaseRoute], prefix: str) -> Iterator[tuple[str, str]]:
    for route in routes:
        if isinstance(route, Mount):
            yield from _flat(route.routes, prefix + route.path)
        else:
            assert isinstance(route, Route)
            yield from ((method, prefix + route.path) for method in route.methods or () if method != "HEAD")


# ── The tables ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_table_has_every_route_of_the_admin_api_and_no_other() -> None:
    assert all_routes() == set(TABLE)


def test_whoever_only_reads_changes_nothing() -> None:
    for (method, path), permission in TABLE.items():
        assert permission.endswith(":read") == (method == "GET"), path


def test_each_role_may_do_all_of_the_one_before() -> None:
    assert ROLES["viewer"] < ROLES["operator"] < ROLES["admin"] == PERMISSIONS
    assert not {"tenants:write", "policies:write", "swarm:write"} & ROLES["operator"]


@pytest.mark.parametrize("scopes", CLIENTS)
def test_what_clients_may_do_is_nothing_here(scopes: tuple[str, ...]) -> None:
    assert permissions_of(scopes) == frozenset()


@given(st.sets(st.sampled_from(sorted([*PERMISSIONS, *ROLES, "infer", "root"]))))
def test_nobody_can_give_more_than_they_have(scopes: set[str]) -> None:
    for mine in ROLES.values():
        allowed = permissions_of(scopes) <= mine
        try:
            check_grant(mine, scopes)
        except TetherError as error:
            assert error.code is TENANT_FORBIDDEN and not allowed
        else:
            assert allowed


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/tenants"),
        ("GET", "/"),
        ("GET", ""),
        ("GET", "/status/"),
        ("GET", "/status\n"),
        ("GET", "//status"),
        ("GET", "/jobs/a/b"),
        ("GET", "/tenants/../keys"),
        ("POST", "/status"),
        ("get", "/status"),
    ],
)
def test_what_is_not_in_the_table_cannot_be_asked(method: str, path: str) -> None:
    assert needed(method, path) is None


# ── The door ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Issuer:
    """Takes eyJ.SCOPES.x as a token of acme's."""

    async def check(self, token: str) -> Claims:
        _, scopes, _ = token.split(".")
        if scopes == "forged":
            raise TetherError(UNAUTHENTICATED, "It is forged.")
        return Claims("ops", None if scopes == "none" else tuple(scopes.split("+")), 2_000.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def desk(clock: Clock) -> TenantDesk:
    desk = TenantDesk(MemoryKeeper(), now=clock)
    await desk.create_tenant("ops", "")
    return desk


@pytest.fixture
def door(desk: TenantDesk, clock: Clock) -> Door:
    return Door(desk, Issuer(), now=clock)


@pytest.fixture
async def client(door: Door) -> AsyncIterator[httpx2.AsyncClient]:
    app = build_app(ScriptedInference(), HttpSettings(65_536), lambda: b"", door)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:7575") as client:
        yield client


async def asked(
    client: httpx2.AsyncClient, method: str, path: str, credential: str, **order: Any
) -> tuple[int, str]:
    """The status, and the code of the error or the text."""
    headers = {"authorization": f"Bearer {credential}"} if credential else {}
    answer = await client.request(method, f"/admin{path}", headers=headers, json=order or None)
    if answer.headers["content-type"] != "application/json" or answer.status_code == 200:
        return answer.status_code, answer.text
    return answer.status_code, answer.json()["error"]["code"]


async def key_for(desk: TenantDesk, *scopes: str, ttl_s: float | None = None) -> str:
    made = await desk.create_key("ops", scopes=scopes, ttl_s=ttl_s)
    return str(made["key"])


async def test_every_role_and_scope_gets_through_to_exactly_what_the_table_says(
    client: httpx2.AsyncClient, desk: TenantDesk, door: Door
) -> None:
    async def through(request: Request) -> PlainTextResponse:
        return PlainTextResponse(",".join(sorted(mine_of(request))))

    every = ["GET", "POST"]
    door.open(Starlette(routes=[Route("/{path:path}", through, methods=every)]))
    for scope in (*ROLES, *sorted(PERMISSIONS), "infer", "model:tiny"):
        mine = permissions_of([scope])
        credentials = [await key_for(desk, scope), f"eyJ.{scope}.x"]
        for (method, path), permission in TABLE.items():
            concrete = path.replace("{", "").replace("}", "")
            for credential in credentials:
                status, text = await asked(client, method, concrete, credential)
                if permission in mine:
                    assert (status, text) == (200, ",".join(sorted(mine))), (scope, path)
                else:
                    assert (status, text) == (403, "FORBIDDEN"), (scope, path)


async def test_without_a_credential_that_is_good_there_is_nothing(
    client: httpx2.AsyncClient, desk: TenantDesk, door: Door, clock: Clock
) -> None:
    door.open(build_admin(FakeOperator(), tenant_routes(desk)))
    good, revoked, short = [await key_for(desk, "admin", ttl_s=ttl) for ttl in (None, None, 10.0)]
    await desk.revoke_key(revoked[: -len("_") - 43])
    clock.now += 10.0
    for credential in ("", "sk-anything", revoked, short, good[:-1] + "-", "eyJ.forged.x", "tether_ops_0"):
        assert await asked(client, "GET", "/tenants", credential) == (401, "UNAUTHENTICATED"), credential
    assert (await asked(client, "GET", "/tenants", good))[0] == 200
    assert await asked(client, "GET", "/tenants", await key_for(desk)) == (403, "FORBIDDEN")
    assert await asked(client, "GET", "/tenants", "eyJ.none.x") == (403, "FORBIDDEN")
    assert await asked(client, "GET", "/nowhere", good) == (404, "NOT_FOUND")
    await desk.set_disabled("ops", True)
    assert await asked(client, "GET", "/tenants", good) == (403, "TENANT_FORBIDDEN")


async def test_nobody_makes_a_key_that_may_do_more_than_their_own(
    client: httpx2.AsyncClient, desk: TenantDesk, door: Door
) -> None:
    door.open(build_admin(FakeOperator(), tenant_routes(desk)))
    maker, admin = await key_for(desk, "tenants:write"), await key_for(desk, "admin")
    prefix = admin[: -len("_") - 43]
    for scopes in (["admin"], ["viewer"], ["dlq:write"], ["infer", "usage:read"]):
        order = {"tenant": "ops", "scopes": scopes}
        assert await asked(client, "POST", "/keys", maker, **order) == (403, "TENANT_FORBIDDEN")
        assert (await asked(client, "POST", "/keys", admin, **order))[0] == 200
    assert (await asked(client, "POST", "/keys", maker, tenant="ops", scopes=["infer"]))[0] == 200
    rotated = await asked(client, "POST", f"/keys/{prefix}/rotate", maker, overlapS=0)
    assert rotated == (403, "TENANT_FORBIDDEN")


async def test_a_node_without_the_orchestrator_role_answers_no_operator(
    client: httpx2.AsyncClient, desk: TenantDesk
) -> None:
    assert await asked(client, "GET", "/status", await key_for(desk, "admin")) == (404, "NOT_FOUND")


async def test_on_the_control_socket_its_owner_may_do_everything(desk: TenantDesk) -> None:
    app = build_admin(FakeOperator(), tenant_routes(desk))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://x") as client:
        answer = await client.post("/keys", json={"tenant": "ops", "scopes": ["admin"]})
    assert answer.status_code == 200
