"""The admin API: its routes, and errors that name the field."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from p2p.errors import FIELD_INVALID, NOT_ISSUER, TetherError
from tetherd.admin import InviteOrder, build_admin


class FakeOperator:
    def __init__(self) -> None:
        self.orders: list[InviteOrder] = []

    def status(self) -> dict[str, Any]:
        return {"nodeId": "12D3"}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"nodeId": "12D3"}]

    def models(self) -> list[dict[str, Any]]:
        return []

    async def jobs(self, limit: int) -> list[dict[str, Any]]:
        return [{"limit": limit}]

    async def why(self, prefix: str) -> dict[str, Any]:
        raise TetherError(FIELD_INVALID, f"No job begins with {prefix}.", field="job")

    def invite(self, order: InviteOrder) -> dict[str, Any]:
        if order.uses == 7:
            raise TetherError(NOT_ISSUER, "This node may not admit others.")
        self.orders.append(order)
        return {"ticket": "tether1x", "expiresAt": 1.0}

    def drain(self) -> dict[str, Any]:
        return {"state": "draining", "running": 0}


@pytest.fixture
def operator() -> FakeOperator:
    return FakeOperator()


@pytest.fixture
async def client(operator: FakeOperator) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=build_admin(operator))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_each_question_has_its_answer(client: httpx2.AsyncClient) -> None:
    for path, answer in {
        "/status": {"nodeId": "12D3"},
        "/nodes": [{"nodeId": "12D3"}],
        "/models": [],
        "/jobs": [{"limit": 50}],
        "/jobs?limit=3": [{"limit": 3}],
    }.items():
        assert (await client.get(path)).json() == answer
    assert (await client.post("/drain")).json() == {"state": "draining", "running": 0}


async def test_an_invite_without_a_word_is_a_plain_one_for_a_day(
    client: httpx2.AsyncClient, operator: FakeOperator
) -> None:
    assert (await client.post("/invite")).json()["ticket"] == "tether1x"
    assert (
        await client.post("/invite", json={"roles": ["worker"], "ttlS": 60, "uses": 2})
    ).status_code == 200
    assert operator.orders == [InviteOrder(), InviteOrder(("worker",), (), 60.0, 2)]


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"{", 400, "JSON_INVALID", None),
        (b"[" * 70_000, 400, "JSON_INVALID", None),
        (b'{"uses": "many"}', 400, "FIELD_INVALID", "uses"),
        (b'{"roles": ["boss"]}', 400, "FIELD_INVALID", "roles"),
        (b'{"role": ["worker"]}', 400, "FIELD_INVALID", None),
        (b'{"uses": 7}', 403, "NOT_ISSUER", None),
    ],
)
async def test_a_bad_order_is_an_error_that_names_the_field(
    client: httpx2.AsyncClient, body: bytes, status: int, code: str, field: str | None
) -> None:
    answer = await client.post("/invite", content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (status, code, field)


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1001", "1e3"])
async def test_a_limit_out_of_range_is_refused(client: httpx2.AsyncClient, limit: str) -> None:
    assert (await client.get(f"/jobs?limit={limit}")).json()["error"]["field"] == "limit"


async def test_an_error_of_a_part_is_answered_with_what_to_do(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/jobs/abcd")
    assert "No job begins with abcd. Correct" in answer.json()["error"]["message"]
