"""One answer on its way to one client: the wait for a status, the events, the keepalive, the client that leaves.

All of it runs in one task's nursery, so that whatever ends it (the end, an error, the client's disconnect, the
server's shutdown) leaves the answer's context and with it frees the worker's slot.
"""

from __future__ import annotations

import math
from typing import Final

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from p2p.errors import TetherError
from tetherd.gateway.answer import Answer, Delta, End, Inference, Started
from tetherd.http import responses
from tetherd.http.requests import Parsed
from tetherd.http.responses import Kind, Writer

ACCEPT_WAIT_S: Final = 2.0
"""How long a status waits for a worker's word: errors before that have a status, later ones are events."""
KEEPALIVE_S: Final = 10.0
"""Proxies cut what is silent for 30 to 60 seconds."""

_STREAM_HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def error_response(error: TetherError, headers: dict[str, str] | None = None) -> Response:
    """OpenAI's error object with its status, and retry-after where waiting helps.

    x-should-retry: the openai client repeats what is 409 or 5xx unless it is told otherwise.
    """
    all_headers = {"x-should-retry": "true" if error.code.retryable else "false", **(headers or {})}
    if error.retry_after_s is not None:
        all_headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return Response(responses.error_bytes(error), error.code.status, all_headers, "application/json")


class AnswerResponse(Response):
    """Submits a parsed request and answers it, whole or as server-sent events."""

    def __init__(self, inference: Inference, kind: Kind, parsed: Parsed) -> None:
        super().__init__()
        self._inference = inference
        self._kind = kind
        self._parsed = parsed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = _EventStream(send)
        async with trio.open_nursery() as nursery:
            watch = _Watch(nursery.cancel_scope)
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

    async def _whole(self) -> Response:
        deltas: list[Delta] = []
        try:
            async with self._inference.submit(self._parsed.submission) as answer:
                async for item in answer:
                    match item:
                        case Delta():
                            deltas.append(item)
                        case End():
                            writer = Writer.of(self._kind, await answer.started())
                            body = writer.whole(deltas, item)
                            return Response(body, 200, writer.headers(), "application/json")
        except TetherError as error:
            return error_response(error)
        raise AssertionError("the answer had neither an end nor an error")

    async def _stream(self, stream: _EventStream, nursery: trio.Nursery) -> Response | None:
        """Write the events; or return what is answered instead, while there is no status yet."""
        try:
            async with self._inference.submit(self._parsed.submission) as answer:
                await self._write_events(answer, stream, nursery)
        except TetherError as error:
            if not stream.open:
                return error_response(error)
            await stream.write(responses.error_event(error))
        return None

    async def _write_events(self, answer: Answer, stream: _EventStream, nursery: trio.Nursery) -> None:
        started: Started | None = None
        with trio.move_on_after(ACCEPT_WAIT_S):
            started = await answer.started()
        await stream.start(Writer.of(self._kind, started).headers() if started else {})
        if started is None:
            await stream.write(responses.WAITING)
        nursery.start_soon(stream.keep_alive)
        writer = Writer.of(self._kind, started or await answer.started())
        await stream.write(writer.opening())
        async for item in answer:
            match item:
                case Delta():
                    await stream.write(writer.piece(item))
                case End():
                    await stream.write(writer.ending(item, include_usage=self._parsed.include_usage))


class _Watch:
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

    async def start(self, headers: dict[str, str]) -> None:
        raw = [(name.encode(), value.encode()) for name, value in {**_STREAM_HEADERS, **headers}.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw})
        self.open = True

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
        """Send a comment whenever the body was silent for KEEPALIVE_S."""
        while True:
            await trio.sleep_until(self._last_s + KEEPALIVE_S)
            if trio.current_time() >= self._last_s + KEEPALIVE_S:
                await self.write(responses.WAITING)
