"""HTTP/1.1 by its bytes: what a client may send, in what order and how slowly, and what it is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs
from trio.testing import MemoryReceiveStream, MemorySendStream, MockClock, memory_stream_pair

from tetherd.http.connection import HEAD_S, KEEP_ALIVE_S, LINGER_S, Connection

Stream = trio.StapledStream[MemorySendStream, MemoryReceiveStream]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
GET = b"GET /a%20b?c=d HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the path and the body."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["path"].encode())]}
    )
    await send({"type": "http.response.body", "body": body})


class Client:
    def __init__(self, stream: Stream, connection: Connection) -> None:
        self.stream = stream
        self.connection = connection
        self.ended = trio.Event()
        self.ended_at = 0.0

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, end: bytes) -> bytes:
        """What came up to these bytes."""
        seen = b""
        while end not in seen:
            data = await self.stream.receive_some()
            assert data, f"ended with {seen!r}"
            seen += data
        return seen

    async def rest(self) -> bytes:
        """What comes until the server closes."""
        return b"".join([bytes(data) async for data in self.stream])


@asynccontextmanager
async def connected(app: App, *, stopping: Callable[[], bool] = lambda: False) -> AsyncIterator[Client]:
    ours, theirs = memory_stream_pair()
    client = Client(ours, Connection(app, theirs, "http", stopping))

    async def run() -> None:
        await client.connection.run()
        client.ended_at = trio.current_time()
        client.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield client
        await ours.aclose()
        await client.ended.wait()


async def test_requests_are_answered_in_turn_also_those_that_came_ahead() -> None:
    post = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
    async with connected(echo) as client:
        await client.send(GET + post + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answers = await client.rest()
    assert answers.count(b"HTTP/1.1 200") == 3
    assert answers.count(b"x-path: /a b\r\n") == 2
    assert b"hello" in answers
    assert b"date: " in answers.lower()


async def test_a_head_and_the_first_piece_of_its_body_leave_together() -> None:
    go_on = trio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"two"})

    async with connected(app) as client:
        await client.send(GET)
        first = bytes(await client.stream.receive_some())
        assert first.startswith(b"HTTP/1.1 200") and first.endswith(b"3\r\none\r\n")
        go_on.set()
        assert (await client.until(b"0\r\n\r\n")).startswith(b"3\r\ntwo\r\n")


async def test_the_answer_to_head_has_no_body() -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async with connected(app) as client:
        await client.send(GET.replace(b"GET", b"HEAD"))
        assert (await client.until(b"\r\n\r\n")).endswith(b"\r\n\r\n")
        await client.send(GET)
        assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200")


async def test_who_waits_for_leave_to_send_a_body_is_given_it_once_it_is_read() -> None:
    async with connected(echo) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        await client.send(b"hi")
        assert b"hi" in await client.until(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"\x00\x01\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
     (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"), (b"G" * 100_000, b"431")],
)  # fmt: skip
async def test_what_is_no_request_is_refused_and_ends_the_connection(sent: bytes, status: bytes) -> None:
    async with connected(echo) as client:
        await client.send(sent)
        assert (await client.rest()).startswith(b"HTTP/1.1 " + status)


async def test_an_idle_client_and_one_whose_head_trickles_in_are_let_go(autojump_clock: MockClock) -> None:
    async with connected(echo) as client:
        assert await client.rest() == b""
    assert client.ended_at == pytest.approx(KEEP_ALIVE_S)
    begun = trio.current_time()
    async with connected(echo) as client:
        with pytest.raises(trio.BrokenResourceError):
            for byte in GET[:30]:
                await client.send(bytes([byte]))
                await trio.sleep(1.0)
    assert client.ended_at - begun == pytest.approx(HEAD_S)


async def test_an_answer_that_comes_before_the_body_says_that_the_connection_ends(
    autojump_clock: MockClock,
) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async with connected(app) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10)
        answer = await client.until(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413") and b"connection: close" in answer.lower()
        assert await client.rest() == b""
    assert client.ended_at == pytest.approx(LINGER_S)


async def test_an_application_hears_that_its_client_left() -> None:
    left = trio.Event()

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        assert (await receive())["more_body"] is False
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    async with connected(app) as client:
        await client.send(GET)
        await client.stream.aclose()
        await left.wait()


async def test_an_application_that_crashes_costs_its_connection_and_not_its_words() -> None:
    async def before(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise KeyError("the secret of the request")

    async def within(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise KeyError("the secret of the request")

    with capture_logs() as logs:
        async with connected(before) as client:
            await client.send(GET)
            assert (await client.rest()).startswith(b"HTTP/1.1 500")
        async with connected(within) as client:
            await client.send(GET)
            assert (await client.rest()).endswith(b"4\r\nhalf\r\n"), "no end: the client sees that it is half"
    assert [(one["event"], one["bug"]) for one in logs] == [("http.crashed", "KeyError")] * 2
    assert "secret" not in str(logs)


async def test_a_server_that_stops_lets_idle_clients_go_and_answers_the_others() -> None:
    stopping, go_on = False, trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await echo(scope, receive, send)

    async with (
        connected(app, stopping=lambda: stopping) as idle,
        connected(app, stopping=lambda: stopping) as busy,
    ):
        await busy.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        stopping = True
        for client in (idle, busy):
            client.connection.let_go()
        assert await idle.rest() == b""
        go_on.set()
        assert (await busy.rest()).startswith(b"HTTP/1.1 200")
