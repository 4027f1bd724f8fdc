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


def error_response(error: TetherError) -> Response:
    """OpenAI's error object with its status, and retry-after where waiting helps."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return Response(responses.error_bytes(error), error.code.status, headers, "application/json")


class AnswerResponse(Response):
    """Submits a parsed request and answers it, whole or as server-sent events."""

    def __init__(self, inference: Inference, kind: Kind, parsed: Parsed) -> None:
        super().__init__()
        self._inference = inference
        self._kind = kind
        self._parsed = parsed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outlet = _Outlet(send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave_with_client, receive, nursery.cancel_scope)
            try:
                async with self._inference.submit(self._parsed.submission) as answer:
                    if self._parsed.stream:
                        await self._stream(answer, outlet, nursery)
                    else:
                        await self._send_whole(answer, scope, receive, send)
            except TetherError as error:
                if outlet.open:
                    await outlet.write(responses.error_event(error))
                else:
                    await error_response(error)(scope, receive, send)
            if outlet.open:
                await outlet.close()
            nursery.cancel_scope.cancel()

    async def _send_whole(self, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
        texts: list[str] = []
        async for item in answer:
            match item:
                case Delta():
                    texts.append(item.text)
                case End():
                    writer = Writer(self._kind, await answer.started())
                    body = writer.whole("".join(texts), item)
                    await Response(body, 200, writer.headers(), "application/json")(scope, receive, send)

    async def _stream(self, answer: Answer, outlet: _Outlet, nursery: trio.Nursery) -> None:
        started: Started | None = None
        with trio.move_on_after(ACCEPT_WAIT_S):
            started = await answer.started()
        await outlet.start(Writer(self._kind, started).headers() if started else {})
        nursery.start_soon(outlet.keep_alive)
        writer = Writer(self._kind, started or await answer.started())
        await outlet.write(writer.opening())
        async for item in answer:
            match item:
                case Delta():
                    if item.text:
                        await outlet.write(writer.piece(item.text))
                case End():
                    await outlet.write(writer.ending(item, include_usage=self._parsed.include_usage))


class _Outlet:
    """The body of one streamed response; its keepalive speaks only when nothing else did."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._turn = trio.Lock()
        self._last_s = 0.0
        self.open = False

    async def start(self, headers: dict[str, str]) -> None:
        fixed = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
        raw = [(name.encode(), value.encode()) for name, value in {**fixed, **headers}.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw})
        self.open = True

    async def write(self, data: bytes) -> None:
        if not data:
            return
        async with self._turn:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
            self._last_s = trio.current_time()

    async def close(self) -> None:
        async with self._turn:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            self.open = False

    async def keep_alive(self) -> None:
        """Send a comment whenever the body was silent for KEEPALIVE_S; the first at once, to send the status."""
        await self.write(responses.WAITING)
        while True:
            await trio.sleep_until(self._last_s + KEEPALIVE_S)
            if self.open and trio.current_time() >= self._last_s + KEEPALIVE_S:
                await self.write(responses.WAITING)


async def _leave_with_client(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel everything when the client goes away."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            scope.cancel()
            return
