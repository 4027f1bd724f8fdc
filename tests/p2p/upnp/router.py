"""A home router's UPnP service on loopback, which says what a test wants it to say."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from p2p.host.upnp.http import Url

DESCRIPTION = (
    '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><deviceList><device>'
    "<serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>"
    "<controlURL>/ctl</controlURL></service></serviceList></device></deviceList></device></root>"
)
REFUSAL = "<UPnPError><errorCode>{}</errorCode><errorDescription>No</errorDescription></UPnPError>"


class Router:
    """mapped: external port to internal; refusals: UPnP's code by external port, or by action."""

    def __init__(self) -> None:
        self.external_ip = "11.0.0.7"
        self.description = DESCRIPTION
        self.mapped: dict[int, int] = {}
        self.leases: list[int] = []
        self.refusals: dict[str, int] = {}
        self.url = Url("127.0.0.1", 0, "/desc.xml")

    def answer(self, request: bytes) -> bytes:
        """The body for a request's head and body."""
        text = request.decode()
        if text.startswith("GET"):
            return self.description.encode()
        found = re.search(r'SOAPAction: "[^#]*#(\w+)"', text, re.IGNORECASE)
        action = found[1] if found else ""
        fields = dict(re.findall(r"<(New\w+)>([^<]*)</", text))
        external = fields.get("NewExternalPort", "")
        permanent = fields.get("NewLeaseDuration") == "0"
        code = self.refusals.get(external) or self.refusals.get(action)
        if code and not (code == 725 and permanent):
            return REFUSAL.format(code).encode()
        if action == "AddPortMapping":
            self.mapped[int(external)] = int(fields["NewInternalPort"])
            self.leases.append(int(fields["NewLeaseDuration"]))
        if action == "DeletePortMapping":
            self.mapped.pop(int(external))
        address = f"<NewExternalIPAddress>{self.external_ip}</NewExternalIPAddress>"
        return f"<{action}Response>{address}</{action}Response>".encode()

    @asynccontextmanager
    async def search(self, _: str) -> AsyncIterator[trio.MemoryReceiveChannel[Url]]:
        """In place of SSDP."""
        send, receive = trio.open_memory_channel[Url](1)
        send.send_nowait(self.url)
        send.close()
        with receive:
            yield receive


@asynccontextmanager
async def serving(answer: Callable[[bytes], bytes], *, raw: bool = False) -> AsyncIterator[Url]:
    """A server that answers each request with answer's body, or raw: with exactly these bytes."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, partial(_serve, answer, raw), listeners)
        yield Url("127.0.0.1", listeners[0].socket.getsockname()[1], "/desc.xml")
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_router() -> AsyncIterator[Router]:
    router = Router()
    async with serving(router.answer) as router.url:
        yield router


async def _serve(answer: Callable[[bytes], bytes], raw: bool, stream: trio.SocketStream) -> None:
    request = b""
    try:
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some()
        head, _, body = request.partition(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head.lower())
        while len(body) < int(found[1] if found else 0):
            body += await stream.receive_some()
        said = answer(head + b"\r\n\r\n" + body)
        length = b"" if raw else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said)
        await stream.send_all(length + said)
    except trio.BrokenResourceError:
        pass  # it hung up on what it did not like
    finally:
        await stream.aclose()
