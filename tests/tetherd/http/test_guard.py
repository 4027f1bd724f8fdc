"""Which pages and names may reach the shim."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from p2p.errors import HOST_FORBIDDEN, ORIGIN_FORBIDDEN, TetherError
from tests.tetherd.http.scripted import CHAT, HELLO, LIMIT, ScriptedInference
from tetherd.http.app import HttpSettings, build_app
from tetherd.http.guard import Guard

PAGE = "https://chat.example"
GUARD = Guard(frozenset({"tether.lan"}), frozenset({PAGE}))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:7575", "127.8.8.8", "localhost:1", "LOCALHOST", "[::1]:7575", "tether.lan:80"],
)
def test_loopback_and_named_hosts_are_ours(host: str) -> None:
    GUARD.check(host, None)


@pytest.mark.parametrize(
    "host",
    [None, "", ":7575", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example",
     "evil.example@127.0.0.1", "0.0.0.0", "10.0.0.1", "[::]", "[::1", "localhost:99999", "localhost/x", "a b"],
)  # fmt: skip
def test_any_other_host_is_refused(host: str | None) -> None:
    with pytest.raises(TetherError) as caught:
        GUARD.check(host, None)
    assert caught.value.code is HOST_FORBIDDEN


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:7575", PAGE])
def test_the_shims_own_pages_and_those_named_may_call(origin: str | None) -> None:
    GUARD.check("127.0.0.1:7575", origin)


@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://127.0.0.1:1", "http://localhost:7575", "file://127.0.0.1:7575", "http://evil.example",
     f"{PAGE}.evil.example", f"{PAGE}:444", "http://[", "chrome-extension://127.0.0.1:7575"],
)  # fmt: skip
def test_any_other_page_may_not(origin: str) -> None:
    with pytest.raises(TetherError) as caught:
        GUARD.check("127.0.0.1:7575", origin)
    assert caught.value.code is ORIGIN_FORBIDDEN


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"host": "127.0.0.1.evil.example"}, {"origin": "http://evil.example"}],
)
async def test_a_rebound_name_or_a_foreign_page_is_refused_on_every_path(
    client: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    for path in ("/healthz", "/v1/models", "/metrics", "/nowhere"):
        assert (await client.get(path, headers=headers)).status_code == 403


@pytest.fixture
async def open_to_page(inference: ScriptedInference) -> AsyncIterator[httpx2.AsyncClient]:
    app = build_app(inference, HttpSettings(LIMIT, origins=(f"{PAGE}/",)), lambda: b"")
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:7575") as client:
        yield client


async def test_an_allowed_page_gets_what_its_browser_asks_for(open_to_page: httpx2.AsyncClient) -> None:
    asking = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-a",
    }
    preflight = await open_to_page.options(CHAT, headers=asking)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert preflight.headers["access-control-allow-headers"] == "x-a"
    answer = await open_to_page.post(CHAT, json=HELLO, headers={"origin": PAGE})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    assert answer.headers["vary"] == "origin"


async def test_a_program_without_an_origin_gets_no_browser_headers(open_to_page: httpx2.AsyncClient) -> None:
    answer = await open_to_page.get("/v1/models")
    assert not [name for name in answer.headers if name.startswith("access-control")]
