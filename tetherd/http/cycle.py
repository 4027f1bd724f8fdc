"""One request and its answer, as an ASGI application sees them (ASGI's HTTP specification, version 2.3)."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes

import h11
import trio
from starlette.types import Message, Scope

MAX_AHEAD_BYTES: Final = 64 * 1024
"""What a client may send of its next requests before this one is answered; with more it is not seen to leave."""
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
_GONE: Final[Message] = {"type": "http.disconnect"}
_EMPTY: Final[Message] = {"type": "http.request", "body": b"", "more_body": False}
_ANSWERED: Final = (h11.DONE, h11.MUST_CLOSE)


class Lost(Exception):
    """The client is gone."""


class Bytes(Protocol):
    async def read(self) -> bytes:
        """Some bytes; none at the client's end. Raises Lost."""
        ...

    async def write(self, data: bytes) -> None:
        """Nothing is sent once the client is lost."""
        ...


class Cycle:
    """receive and send are the application's. closes: the connection ends with this answer; left: the client did.

    A head waits for the first piece of its body, so that both leave together; an empty piece makes it leave alone. An
    answer that comes before the whole request ends the connection, too: what is still sent would be read for nothing.
    """

    def __init__(
        self, client: Bytes, http: h11.Connection, request: h11.Request, scheme: str, *, closes: bool
    ) -> None:
        self.scope: Final = _scope(request, scheme)
        self._client = client
        self._http = http
        self._closes = closes
        self._for_head = request.method == b"HEAD"
        self._first: Message | None = None
        self._whole = False
        self.left = False
        self._head: h11.Response | None = None
        if not any(name in (b"content-length", b"transfer-encoding") for name, _ in request.headers):
            http.next_event()  # its end: there is no body, whether the application asks or not
            self._whole = True
            self._first = _EMPTY

    async def receive(self) -> Message:
        """The body, piece by piece; after it, or after the answer, that the client left."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._http.our_state in _ANSWERED:
            return _GONE
        try:
            return await self._body() if not self._whole else await self._left()
        except (Lost, h11.RemoteProtocolError):
            self.left = self._whole = True
            return _GONE

    async def send(self, message: Message) -> None:
        """Raises h11.LocalProtocolError for what is no answer."""
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"date", _date(int(time.time())))]
            if self._closes or self._http.their_state is h11.SEND_BODY:
                headers.append((b"connection", b"close"))
            self._head = h11.Response(status_code=message["status"], headers=headers)
            return
        send, pieces = self._http.send, list[bytes | None]()
        if self._head is not None:
            pieces.append(send(self._head))
            self._head = None
        if (body := message.get("body", b"")) and not self._for_head:
            pieces.append(send(h11.Data(data=body)))
        if not message.get("more_body", False):
            pieces.append(send(h11.EndOfMessage()))
        await self._client.write(b"".join(piece for piece in pieces if piece))

    async def read_to_end(self) -> None:
        """Read what the application left of the body, if the answer is whole. Raises Lost."""
        try:
            while self._http.our_state in _ANSWERED and self._http.their_state is h11.SEND_BODY:
                await self._body()
        except h11.RemoteProtocolError as error:
            raise Lost from error

    async def _body(self) -> Message:
        http = self._http
        if http.they_are_waiting_for_100_continue and http.our_state is h11.SEND_RESPONSE:
            await self._client.write(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(await self._client.read())
        body = bytes(event.data) if isinstance(event, h11.Data) else b""
        self._whole = not isinstance(event, h11.Data)
        return {"type": "http.request", "body": body, "more_body": not self._whole}

    async def _left(self) -> Message:
        while len(self._http.trailing_data[0]) < MAX_AHEAD_BYTES:
            data = await self._client.read()
            self._http.receive_data(data)
            if not data:
                self.left = True
                return _GONE
        await trio.sleep_forever()
        raise AssertionError


def _scope(request: h11.Request, scheme: str) -> Scope:
    path, _, query = request.target.partition(b"?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": _ASGI,
        "http_version": request.http_version.decode("ascii"),
        "method": request.method.decode("ascii").upper(),
        "scheme": scheme,
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": None,
        "server": None,
    }
    return scope


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")
