"""One request to a gateway over HTTP/1.1, its answer bounded in bytes and time."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

import h11
import trio

from p2p.host.upnp.fault import GatewayFault
from p2p.host.upnp.xml import MAX_BYTES

REQUEST_S: Final = 4.0
"""For a slow router; it is a few metres away."""
MAX_HEAD_BYTES: Final = 8_192
READ_BYTES: Final = 8_192


@dataclass(frozen=True, slots=True)
class Url:
    """host: an IPv4 address; path: with its query."""

    host: str
    port: int
    path: str

    def join(self, reference: str) -> Url:
        """Raises GatewayFault unless it stays on this host."""
        there = parse(urljoin(f"http://{self.host}:{self.port}{self.path}", reference))
        if there.host != self.host:
            raise GatewayFault("The gateway points to another machine.")
        return there


@dataclass(frozen=True, slots=True)
class Answer:
    """here: this node's own address on the way to the gateway."""

    status: int
    body: bytes
    here: str


def parse(text: str) -> Url:
    """Raises GatewayFault for anything but a plain http URL of an IPv4 address."""
    try:
        parts = urlsplit(text)
        host, port = str(ipaddress.IPv4Address(parts.hostname or "")), parts.port or 80
    except ValueError as error:
        raise GatewayFault("The gateway's address is not a URL of an IPv4 address.") from error
    printable = text.isascii() and text.isprintable() and " " not in text
    if parts.scheme != "http" or parts.username is not None or not printable:
        raise GatewayFault("The gateway's address is not a plain http URL.")
    return Url(host, port, f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}")


async def request(
    url: Url, method: str = "GET", headers: tuple[tuple[str, str], ...] = (), body: bytes = b""
) -> Answer:
    """Raises GatewayFault."""
    try:
        with trio.fail_after(REQUEST_S):
            stream = await trio.open_tcp_stream(url.host, url.port)
            async with stream:
                here: str = stream.socket.getsockname()[0]
                status, answer = await _exchange(stream, url, method, headers, body)
                return Answer(status, answer, here)
    except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError) as error:
        raise GatewayFault(f"The gateway does not answer as it should: {type(error).__name__}.") from error


async def _exchange(
    stream: trio.SocketStream, url: Url, method: str, headers: tuple[tuple[str, str], ...], body: bytes
) -> tuple[int, bytes]:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    head = [
        ("Host", f"{url.host}:{url.port}"),
        ("Connection", "close"),
        ("Content-Length", str(len(body))),
        *headers,
    ]
    data = http.send(h11.Request(method=method, target=url.path, headers=head))
    data = (data or b"") + (http.send(h11.Data(body)) or b"") + (http.send(h11.EndOfMessage()) or b"")
    await stream.send_all(data)
    status, answer = 0, b""
    while True:
        event = http.next_event()
        match event:
            case h11.NEED_DATA:
                http.receive_data(await stream.receive_some(READ_BYTES))
            case h11.Response():
                status = event.status_code
            case h11.Data():
                answer += event.data
                if len(answer) > MAX_BYTES:
                    raise GatewayFault("The gateway's answer is too long.")
            case h11.EndOfMessage():
                return status, answer
            case _:
                pass  # 100 Continue, which has no body
