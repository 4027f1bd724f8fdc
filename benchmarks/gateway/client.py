"""The client that asks all of them: HTTP/1.1 by hand, so that it takes little of the cores that it measures on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio

from benchmarks.gateway.pace import MODEL, TEXT, TOKENS

QUESTION = "How late is it?"
ANSWER_S = 120.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds from the request to the first text, and to the end."""

    first_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Way:
    """One way to an answer. url: without /v1."""

    name: str
    url: str
    key: str = "none"

    def request(self, *, stream: bool) -> bytes:
        question = [{"role": "user", "content": QUESTION}]
        asked = {"model": MODEL, "messages": question, "max_tokens": TOKENS, "stream": stream}
        body = json.dumps(asked).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {urlsplit(self.url).netloc}\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def times(way: Way, *, stream: bool, callers: int, each: int) -> list[Timing]:
    """So many callers at a time, each with a connection of its own, and so many questions of each."""
    taken: list[Timing] = []

    async def caller() -> None:
        async with await _connect(way) as connection:
            for _ in range(each):
                taken.append(await _ask(connection, request))

    request = way.request(stream=stream)
    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(caller)
    return taken


async def streams_per_s(way: Way, *, callers: int, seconds: float) -> float:
    """Whoever has an answer asks again until the time is over; all that was begun is waited for and counted."""
    done = 0
    began = trio.current_time()

    async def caller() -> None:
        nonlocal done
        async with await _connect(way) as connection:
            while trio.current_time() < began + seconds:
                await _ask(connection, request)
                done += 1

    request = way.request(stream=True)
    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(caller)
    return done / (trio.current_time() - began)


async def _connect(way: Way) -> trio.SocketStream:
    to = urlsplit(way.url)
    return await trio.open_tcp_stream(str(to.hostname), int(to.port or 80))


async def _ask(connection: trio.SocketStream, request: bytes) -> Timing:
    """Raises RuntimeError for anything but a whole answer."""
    began = trio.current_time()
    first: float | None = None
    seen = b""
    with trio.fail_after(ANSWER_S):
        await connection.send_all(request)
        while not _whole(seen):
            data = await connection.receive_some(65536)
            seen += data
            if not data:
                raise RuntimeError(f"the answer ended early: {seen[-300:]!r}")
            if first is None and TEXT.encode() in seen:
                first = trio.current_time()
    ended = trio.current_time()
    if first is None or not seen.startswith(b"HTTP/1.1 200") or seen.count(TEXT.encode()) != TOKENS:
        raise RuntimeError(f"no answer: {seen[:600]!r}")
    return Timing(first - began, ended - began)


def _whole(seen: bytes) -> bool:
    if seen.endswith(b"\r\n0\r\n\r\n"):
        return True
    head, end, body = seen.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return bool(end and length) and len(body) >= int(length)
