"""What operators do with tenants and keys, over the admin API's routes and on the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from p2p.errors import TetherError
from p2p.identity import PeerId
from tests.tetherd.tenants.test_register import PLAIN
from tests.tetherd.test_admin import FakeOperator
from tetherd.admin import build_admin
from tetherd.data_dir import DataDir
from tetherd.tenants.desk import TenantDesk
from tetherd.tenants.keys import read_key
from tetherd.tenants.routes import tenant_routes

GATEWAY = PeerId("12D3gateway")


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(tmp_path: Path, clock: Clock) -> TenantDesk:
    return TenantDesk(DataDir(tmp_path), now=clock)


@pytest.fixture
async def client(desk: TenantDesk) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=build_admin(FakeOperator(), tenant_routes(desk)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def post(client: httpx2.AsyncClient, path: str, **order: Any) -> dict[str, Any]:
    answer = await client.post(path, json=order)
    body: dict[str, Any] = answer.json()
    assert answer.status_code == 200, body
    return body


async def is_let_in(desk: TenantDesk, key: str) -> bool:
    try:
        await desk.admit(read_key(key).sign(PLAIN, GATEWAY), GATEWAY)
    except TetherError:
        return False
    return True


async def test_a_key_is_shown_once_and_only_its_hash_is_kept(
    client: httpx2.AsyncClient, desk: TenantDesk, tmp_path: Path
) -> None:
    assert (await post(client, "/tenants", tenant="acme", name="Acme"))["state"] == "active"
    made = await post(client, "/keys", tenant="acme")
    assert made["key"].startswith(made["prefix"])
    assert await is_let_in(desk, made["key"])
    listed = (await client.get("/keys")).text + (await client.get("/tenants/acme")).text
    assert made["prefix"] in listed
    assert made["key"][-43:] not in listed
    kept = (tmp_path / "tenants").read_bytes()
    assert made["key"][-43:].encode() not in kept
    assert (tmp_path / "tenants").stat().st_mode & 0o777 == 0o600


async def test_a_register_survives_a_restart(desk: TenantDesk, tmp_path: Path, clock: Clock) -> None:
    await desk.create_tenant("acme", "")
    key = (await desk.create_key("acme"))["key"]
    assert await is_let_in(TenantDesk(DataDir(tmp_path), now=clock), key)


async def test_a_rotated_key_is_good_for_the_overlap_and_its_successor_after_it(
    client: httpx2.AsyncClient, desk: TenantDesk, clock: Clock
) -> None:
    await post(client, "/tenants", tenant="acme")
    old = await post(client, "/keys", tenant="acme", scopes=["model:tiny"])
    new = await post(client, f"/keys/{old['prefix']}/rotate", overlapS=60)
    assert new["scopes"] == ["model:tiny"]
    assert [await is_let_in(desk, one["key"]) for one in (old, new)] == [True, True]
    clock.now += 60
    assert [await is_let_in(desk, one["key"]) for one in (old, new)] == [False, True]


async def test_a_revoked_key_and_a_disabled_tenant_are_refused(
    client: httpx2.AsyncClient, desk: TenantDesk
) -> None:
    await post(client, "/tenants", tenant="acme")
    one, other = [await post(client, "/keys", tenant="acme") for _ in range(2)]
    assert (await post(client, f"/keys/{one['keyId']}/revoke"))["state"] == "revoked"
    assert [await is_let_in(desk, key["key"]) for key in (one, other)] == [False, True]
    await post(client, "/tenants/acme/disable")
    assert not await is_let_in(desk, other["key"])
    await post(client, "/tenants/acme/enable")
    assert await is_let_in(desk, other["key"])


async def test_the_last_use_of_a_key_is_known_to_the_minute(desk: TenantDesk, clock: Clock) -> None:
    await desk.create_tenant("acme", "")
    key = (await desk.create_key("acme"))["key"]
    uses = []
    for step in (0.0, 59.0, 1.0):
        clock.now += step
        assert await is_let_in(desk, key)
        uses.append(desk.keys()[0]["lastUsed"])
    assert uses == [1_000.0, 1_000.0, 1_060.0]


@pytest.mark.parametrize(
    ("path", "order", "field"),
    [
        ("/tenants", {"tenant": "local"}, "tenant"),
        ("/tenants", {"tenant": "acme"}, "tenant"),
        ("/tenants", {"tenant": "Other"}, "tenant"),
        ("/tenants", {"tenant": "other", "name": "a\n"}, "name"),
        ("/tenants/nobody/disable", {}, "tenant"),
        ("/keys", {"tenant": "nobody"}, "tenant"),
        ("/keys", {"tenant": "acme", "scopes": ["root"]}, "scopes"),
        ("/keys", {"tenant": "acme", "ttlS": -1}, "ttlS"),
        ("/keys/000000000000/rotate", {}, "key"),
        ("/keys/000000000000/revoke", {}, "key"),
    ],
)
async def test_a_wrong_order_names_the_field(
    client: httpx2.AsyncClient, desk: TenantDesk, path: str, order: dict[str, Any], field: str
) -> None:
    await desk.create_tenant("acme", "")
    answer = await client.post(path, json=order)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["field"] == field


async def test_limits_are_set_one_by_one_and_taken_off_with_0(
    desk: TenantDesk, client: httpx2.AsyncClient
) -> None:
    await post(client, "/tenants", tenant="acme")
    limited = await post(client, "/tenants/acme/limits", requestsPerMinute=60, concurrency=4)
    assert (limited["limits"]["requestsPerMinute"], limited["limits"]["concurrency"]) == (60, 4)
    limited = await post(client, "/tenants/acme/limits", concurrency=0, weight=3)
    assert limited["limits"] == {
        "requestsPerMinute": 60,
        "tokensPerMinute": None,
        "tokensPerMonth": None,
        "concurrency": None,
        "budget": None,
        "weight": 3,
    }
    key = await post(client, "/keys", tenant="acme")
    limited = await post(client, f"/keys/{key['prefix']}/limits", tokensPerMinute=1000)
    assert limited["limits"]["tokensPerMinute"] == 1000


async def test_a_budget_asks_for_postgresql_in_one_sentence(
    desk: TenantDesk, client: httpx2.AsyncClient
) -> None:
    await post(client, "/tenants", tenant="acme")
    refused = await client.post("/tenants/acme/limits", json={"budget": 12_500_000})
    assert refused.json()["error"]["code"] == "CONFIG_INVALID"
    assert "--store postgresql://" in refused.json()["error"]["message"]
    desk.shared = True
    assert (await post(client, "/tenants/acme/limits", budget=12_500_000))["limits"]["budget"] == 12_500_000
