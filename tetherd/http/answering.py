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
from tetherd.gateway.answer import Answer, Delta, Inference, Started
from tetherd.http import responses
from tetherd.http.event_stream import EventStream
from tetherd.http.rates import rate_headers
from tetherd.http.requests import Parsed
from tetherd.http.writer import Choice, Kind, Page, Writer

ACCEPT_WAIT_S: Final = 2.0
"""How long a status waits for a worker's word: errors before that have a status, later ones are events."""
AT_ONCE: Final = 8
"""Of one request's choices, each a job of its own: a hundred must not take every slot of a region."""


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
        stream = EventStream(send)
        async with trio.open_nursery() as nursery:
            watch = Watch(nursery.cancel_scope)
            nursery.start_soon(watch.run, receive)
            if self._parsed.stream:
                whole = await self._stream(stream, nursery, watch)
            else:
                whole = await self._whole()
            watch.end()
            if whole is not None:
                await whole(scope, receive, send)
            else:
                await stream.end()
            nursery.cancel_scope.cancel()

    async def _each(self, follow: Callable[[Choice, Answer], Awaitable[None]]) -> None:
        """Have every choice answered, AT_ONCE at a time. The first that fails ends the others and is raised."""
        limit, failures = trio.CapacityLimiter(AT_ONCE), list[TetherError]()

        async def one(choice: Choice) -> None:
            async with self._inference.submit(choice.submission, choice.told) as answer:
                await follow(choice, answer)

        async def one_of_many(choice: Choice) -> None:
            async with limit:
                try:
                    await one(choice)
                except TetherError as error:
                    failures.append(error)
                    nursery.cancel_scope.cancel()

        if len(self._choices) == 1:
            await one(self._choices[0])
            return
        async with trio.open_nursery() as nursery:
            for choice in self._choices:
                nursery.start_soon(one_of_many, choice)
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

    async def _stream(self, stream: EventStream, nursery: trio.Nursery, watch: Watch) -> Response | None:
        """Write the events; or return what is answered instead, while there is no status yet."""
        opening = _Opening(stream, self._kind)
        for choice in self._choices[:1]:
            choice.told = stream.told
        nursery.start_soon(opening.run)
        left = len(self._choices)

        async def follow(choice: Choice, answer: Answer) -> None:
            nonlocal left
            choice.started = await answer.started()
            writer = Writer(opening.page(choice.started), choice)
            await stream.write(writer.opening())
            async for item in answer:
                choice.count(item)
                if isinstance(item, Delta) and item.last:
                    stream.put(writer.piece(item))
                elif isinstance(item, Delta):
                    await stream.write(writer.piece(item))
            left -= 1
            if left:
                await stream.write(writer.finish())
            else:
                watch.end()
                include_usage = self._parsed.include_usage
                await stream.end(writer.ending(self._choices, include_usage=include_usage))

        try:
            await self._each(follow)
        except TetherError as error:
            opening.give_up()
            if not stream.open:
                return error_response(error)
            await stream.write(responses.error_event(error))
        return None


class _Opening:
    """The status goes out once the first answer has started, or ACCEPT_WAIT_S after the request."""

    def __init__(self, stream: EventStream, kind: Kind) -> None:
        self._stream = stream
        self._kind = kind
        self._page: Page | None = None
        self._begun = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        with self._scope:
            with trio.move_on_after(ACCEPT_WAIT_S):
                await self._begun.wait()
            if self._page is None:
                self._stream.start({}, responses.WAITING)
            await self._stream.run()

    def page(self, started: Started) -> Page:
        """What the events of all choices stand on: the id and headers of whichever started first."""
        if self._page is None:
            self._page = Page(self._kind, started)
            if not self._stream.open:
                self._stream.start(self._page.headers())
            self._begun.set()
        return self._page

    def give_up(self) -> None:
        """Keep the status, unless it is out."""
        if not self._stream.open:
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
