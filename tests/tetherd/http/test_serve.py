"""The shim on a real socket: the openai client, a client that leaves, an address in use, the admin socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest
import trio
import trio.testing
from openai import OpenAI
from starlette.applications import Starlette

from p2p.errors import ADDRESS_IN_USE, CONFIG_INVALID, TetherError
from tests.tetherd.http.scripted import END, ScriptedInference
from tetherd.gateway.answer import Delta
from tetherd.http.app import HttpSettings, build_app
from tetherd.http.serve import serve, serve_unix


def app(inference: ScriptedInference) -> Starlette:
    return build_app(inference, HttpSettings(65_536), lambda: b"")


@asynccontextmanager
async def serving(inference: ScriptedInference) -> AsyncIterator[str]:
    """The shim's base URL while it serves."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(serve, app(inference), "127.0.0.1", 0, stop=stop.wait))
        stop.set()


async def in_thread(work: Callable[[], str]) -> str:
    return await trio.to_thread.run_sync(work)


async def test_the_openai_client_reads_both_endpoints_whole_and_streamed() -> None:
    async with serving(ScriptedInference()) as url:

        def work() -> str:
            with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
                whole = client.chat.completions.create(
                    model="demo", messages=[{"role": "user", "content": "x"}]
                )
                stream = client.chat.completions.create(
                    model="demo", messages=[{"role": "user", "content": "x"}], stream=True
                )
                streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
                text = client.completions.create(model="demo", prompt="x").choices[0].text
                texts = "".join(one.choices[0].text for one in client.completions.create(
                    model="demo", prompt="x", stream=True))  # fmt: skip
                return f"{whole.choices[0].message.content} {streamed} {text} {texts}"

        assert await in_thread(work) == "Hello Hello Hello Hello"


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_leaves_ends_its_answer_at_once(streamed: bool) -> None:
    inference = ScriptedInference(script=(Delta("Hel", (1,)), END), go_on_after=trio.Event())
    async with serving(inference) as url:
        body = {"model": "demo", "messages": [{"role": "user", "content": "x"}], "stream": streamed}
        with trio.move_on_after(60):
            async with httpx2.AsyncClient() as client, trio.open_nursery() as nursery:

                async def ask() -> None:
                    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                        async for _ in answer.aiter_bytes():
                            pass

                nursery.start_soon(ask)
                await inference.submitted.wait()
                nursery.cancel_scope.cancel()
        with trio.fail_after(10):
            await inference.left.wait()


def exchange(url: str, sent: bytes) -> bytes:
    """Send bytes as they are, and read until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        received = b""
        while part := connection.recv(65_536):
            received += part
    return received


def request(url: str, body: bytes, *headers: str) -> bytes:
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: {url.removeprefix('http://')}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("streamed", [b"true", b"false"])
async def test_a_connection_serves_one_answer_after_the_other_and_closes_when_asked(streamed: bytes) -> None:
    body = b'{"model": "demo", "stream": %s, "messages": [{"role": "user", "content": "x"}]}' % streamed
    async with serving(ScriptedInference()) as url:
        both = request(url, body) + request(url, body, "Connection: close")
        answer = await trio.to_thread.run_sync(exchange, url, both)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.count(b'"finish_reason":"stop"') == 2


async def test_a_body_over_the_limit_is_refused_while_it_still_comes() -> None:
    async with serving(ScriptedInference()) as url:
        answer = await trio.to_thread.run_sync(exchange, url, request(url, b"x" * 3_000_000))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"BODY_TOO_LARGE" in answer


@pytest.mark.parametrize(
    "sent",
    [b"\x00\x01\r\n\r\n",b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"G" * 100_000 + b"\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
     b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"],
)  # fmt: skip
async def test_bytes_that_are_no_request_end_their_connection_and_nothing_else(sent: bytes) -> None:
    async with serving(ScriptedInference()) as url:
        answer = await trio.to_thread.run_sync(exchange, url, sent)
        assert b"HTTP/1.1 200" not in answer
        async with httpx2.AsyncClient() as client:
            assert (await client.get(f"{url}/healthz")).status_code == 200


async def test_a_client_that_stops_reading_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tetherd.http.serve.GRACEFUL_S", 0.05)
    inference = ScriptedInference(script=(Delta("x" * 1_000_000, (1,)),) * 64 + (END,))
    body = b'{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "x"}]}'
    with socket.socket() as client:
        with trio.fail_after(20):
            async with serving(inference) as url:
                host, port = url.removeprefix("http://").split(":")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                client.connect((host, int(port)))
                client.sendall(request(url, body))
                await inference.submitted.wait()
                await trio.testing.wait_all_tasks_blocked(0.05)
        assert inference.left.is_set()


async def test_an_address_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TetherError, match=f"127.0.0.1:{port} is in use") as caught:
            await serve(app(ScriptedInference()), "127.0.0.1", port, stop=trio.sleep_forever)
    assert caught.value.code is ADDRESS_IN_USE


async def test_the_admin_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    path, stop = tmp_path / "control.sock", trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_unix, app(ScriptedInference()), path, stop=stop.wait))
        assert path.stat().st_mode & 0o777 == 0o600
        transport = httpx2.AsyncHTTPTransport(uds=str(path))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/healthz")).text == "ok\n"
        stop.set()


async def test_a_socket_path_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TetherError) as caught:
        await serve_unix(app(ScriptedInference()), tmp_path / ("x" * 200), stop=trio.sleep_forever)
    assert caught.value.code is CONFIG_INVALID
