"""An OpenAI-compatible server that answers everything at the fixed pace: python -m benchmarks.gateway.mock."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, cast

import uvloop

from benchmarks.gateway.pace import MODEL, TEXT, TOKENS, due_s

_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One client's; it asks one thing at a time."""

    def __init__(self) -> None:
        self._seen = b""
        self._transport: asyncio.Transport | None = None
        self._answers: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so

    def connection_lost(self, exc: Exception | None) -> None:
        for answer in self._answers:
            answer.cancel()

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, end, rest = self._seen.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if not end or len(rest) < int(length or 0):
            return
        self._seen = rest[int(length or 0) :]
        body = json.loads(rest[: int(length or 0)] or b"{}")
        answer = asyncio.create_task(self._stream() if body.get("stream") else self._whole())
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _stream(self) -> None:
        assert self._transport is not None
        began = asyncio.get_running_loop().time()
        self._transport.write(_HEAD)
        for token in range(TOKENS):
            await _until(began + due_s(token))
            role = {"role": "assistant"} if token == 0 else {}
            self._transport.write(_chunk(_delta({**role, "content": TEXT})))
        self._transport.write(_chunk(_delta({}, "length")) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async def _whole(self) -> None:
        assert self._transport is not None
        await _until(asyncio.get_running_loop().time() + due_s(TOKENS - 1))
        message = {"role": "assistant", "content": TEXT * TOKENS}
        usage = {"prompt_tokens": 8, "completion_tokens": TOKENS, "total_tokens": 8 + TOKENS}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        body = json.dumps({**_about("chat.completion"), "choices": [choice], "usage": usage}).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def _until(due: float) -> None:
    await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))


def _about(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": MODEL}


def _delta(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({**_about("chat.completion.chunk"), "choices": [choice]}).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
