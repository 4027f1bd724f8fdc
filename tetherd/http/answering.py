"""One request's answers on their way to its client: the status, the events, the keepalive, the client that leaves.

All of it runs in one task's nursery, so that whatever ends it (the end, an error, the client's disconnect, the
server's shutdown) leaves the answers' contexts and with them frees the workers' slots.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from p2p.errors import TetherError
from tetherd.gateway.answer import Answer, Delta, Inference, Loading, Queued, Started
from tetherd.http import responses
from tetherd.http.rates import rate_headers
from tetherd.http.requests import Parsed
from tetherd.http.writer import Choice, Kind, Page, Writer

ACCEPT_WAIT_S: Final = 2.0
"""How long a status waits for a worker's word: errors before that have a status, later ones are events."""
KEEPALIVE_S: Final = 10.0
"""Proxies cut what is silent for 30 to 60 seconds."""
AT_ONCE: Final = 8
"""Of one request's choices, each a job of its own: a hundred must not take every slot of a region."""

_STREAM_HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def error_response(error: TetherError, headers: dict[str, str] | None = None) -> Response:
    """OpenAI's error object with its status, and retry-after where waiting helps.

    x-should-retry: the openai client repeats what is 409 or 5xx unless it is told otherwise.
    """
    retry = "true" if error.code.retryable else "false"
    all_headers = {"x-should-retry": retry, **rate_headers(error.rates), **(headers or {})}
    if error.retry_after_s is not None:
        all_headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return Response(responses.error_bytes(error), error.code.status, all_headers, "application/json")


class AnswerResponse(Response):
    """Submits a parsed request and answers it, whole or as server-sent events, with all of its choices."""

    def __init__(self, inference: Inference, kind: Kind, parsed: Parsed) -> None:
        super().__init__()
        self._inference = inference
        self._kind = kind
        self._parsed = parsed
        self._choices = [
            Choice(index, submission, echo=parsed.echo, tools=parsed.tools)
            for index, submission in enumerate(parsed.submissions)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = _EventStream(send)
        async with trio.open_nursery() as nursery:
            watch = Watch(nursery.cancel_scope)
            nursery.start_soon(watch.run, receive)
            if self._parsed.stream:
                whole = await self._stream(stream, nursery)
            else:
                whole = await self._whole()
            watch.end()
            if whole is not None:
                await whole(scope, receive, send)
            else:
                await stream.close()
            nursery.cancel_scope.cancel()

    async def _each(self, follow: Callable[[Choice, Answer], Awaitable[None]]) -> None:
        """Have every choice answered, AT_ONCE at a time. The first that fails ends the others and is raised."""
        limit, failures = trio.CapacityLimiter(AT_ONCE), list[TetherError]()

        async def one(choice: Choice) -> None:
            async with limit:
                try:
                    async with self._inference.submit(choice.submission, choice.told) as answer:
                        await follow(choice, answer)
                except TetherError as error:
                    failures.append(error)
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for choice in self._choices:
                nursery.start_soon(one, choice)
        if failures:
            raise failures[0]

    async def _whole(self) -> Response:
        async def follow(choice: Choice, answer: Answer) -> None:
            async for item in answer:
                choice.take(item)
            choice.started = await answer.started()

        try:
            await self._each(follow)
        except TetherError as error:
            return error_response(error)
        page = Page(self._kind, self._choices[0].begun)
        return Response(page.whole(self._choices), 200, page.headers(), "application/json")

    async def _stream(self, stream: _EventStream, nursery: trio.Nursery) -> Response | None:
        """Write the events; or return what is answered instead, while there is no status yet."""
        opening = _Opening(stream, self._kind)
        for choice in self._choices[:1]:
            choice.told = stream.told
        nursery.start_soon(opening.run)
        left = len(self._choices)

        async def follow(choice: Choice, answer: Answer) -> None:
            nonlocal left
            choice.started = await answer.started()
            writer = Writer(await opening.page(choice.started), choice)
            await stream.write(writer.opening())
            async for item in answer:
                choice.count(item)
                if isinstance(item, Delta):
                    await stream.write(writer.piece(item))
            left -= 1
            if left:
                await stream.write(writer.finish())
            else:
                await stream.write(writer.ending(self._choices, include_usage=self._parsed.include_usage))

        try:
            await self._each(follow)
        except TetherError as error:
            opening.end()
            if not stream.open:
                return error_response(error)
            await stream.write(responses.error_event(error))
        return None


class _Opening:
    """The status goes out once the first answer has started, or ACCEPT_WAIT_S after the request; then comments."""

    def __init__(self, stream: _EventStream, kind: Kind) -> None:
        self._stream = stream
        self._kind = kind
        self._page: Page | None = None
        self._begun = trio.Event()
        self._sent = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        with self._scope:
            with trio.move_on_after(ACCEPT_WAIT_S):
                await self._begun.wait()
            await self._stream.start(self._page.headers() if self._page else {})
            if self._page is None:
                await self._stream.write(responses.WAITING)
            self._sent.set()
            await self._stream.keep_alive()

    async def page(self, started: Started) -> Page:
        """What the events of all choices stand on: the id and headers of whichever started first."""
        if self._page is None:
            self._page = Page(self._kind, started)
            self._begun.set()
        await self._sent.wait()
        return self._page

    def end(self) -> None:
        """Nothing more is said by itself; whether a status went out is in `stream.open`."""
        self._scope.cancel()


class Watch:
    """Cancels an answer when its client goes away.

    It ends before the last byte goes out: the server reports a finished response as a disconnect, too, while it is
    still putting the connection in order for the next request.
    """

    def __init__(self, answer: trio.CancelScope) -> None:
        self._answer = answer
        self._watching = trio.CancelScope()

    async def run(self, receive: Receive) -> None:
        with self._watching:
            while (await receive())["type"] != "http.disconnect":
                pass
            self._answer.cancel()

    def end(self) -> None:
        self._watching.cancel()


class _EventStream:
    """The body of one streamed response; its keepalive speaks only when nothing else did."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._turn = trio.Lock()
        self._last_s = trio.current_time()
        self.open = False
        self._wait: Queued | Loading | None = None
        self._news = trio.Event()

    def told(self, wait: Queued | Loading) -> None:
        """What the request waits for: said as a comment, as soon as there is a status."""
        if wait != self._wait:
            self._wait = wait
            self._news.set()

    async def start(self, headers: dict[str, str]) -> None:
        raw = [(name.encode(), value.encode()) for name, value in {**_STREAM_HEADERS, **headers}.items()]
        async with self._turn:
            self.open = True
            await self._send({"type": "http.response.start", "status": 200, "headers": raw})

    async def write(self, data: bytes) -> None:
        if not data:
            return
        async with self._turn:
            if self.open:
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
                self._last_s = trio.current_time()

    async def close(self) -> None:
        async with self._turn:
            self.open = False
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def keep_alive(self) -> None:
        """Send a comment whenever what is waited for changed, or the body was silent for KEEPALIVE_S."""
        while True:
            with trio.move_on_at(self._last_s + KEEPALIVE_S):
                await self._news.wait()
                self._news = trio.Event()
                if self._wait is not None:
                    await self.write(responses.wait_comment(self._wait))
            if trio.current_time() >= self._last_s + KEEPALIVE_S:
                await self.write(responses.WAITING)
