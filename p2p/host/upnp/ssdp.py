"""Who is a gateway in this LAN: one question to everybody, by SSDP (UPnP Device Architecture 1.1, section 1.3)."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from p2p.host.upnp.fault import GatewayFault
from p2p.host.upnp.http import Url, parse

GROUP: Final = ("239.255.255.250", 1900)
DEVICES: Final = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
)
ASKS: Final = 3
"""UDP may lose one."""
ASK_EVERY_S: Final = 0.7
LISTEN_S: Final = 3.0
"""From the first question; a device waits up to a second (MX) with its answer."""
MAX_ANSWERS: Final = 8
"""Of different gateways that are tried. A LAN has one, or two."""
MAX_BYTES: Final = 2_048


def location(answer: bytes, source: str) -> Url | None:
    """Where the sender of an answer describes itself; None if it is no gateway, or points to another machine."""
    lines = answer[:MAX_BYTES].decode("ascii", "replace").split("\r\n")
    if not lines[0].startswith("HTTP/1.") or lines[0].split(" ")[1:2] != ["200"]:
        return None
    pairs = (line.partition(":") for line in lines[1:])
    fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if fields.get("st") not in DEVICES:
        return None
    try:
        url = parse(fields.get("location", ""))
    except GatewayFault:
        return None
    return url if url.host == source else None


def question(device: str) -> bytes:
    lines = [
        "M-SEARCH * HTTP/1.1",
        f"HOST: {GROUP[0]}:{GROUP[1]}",
        'MAN: "ssdp:discover"',
        "MX: 1",
        f"ST: {device}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@asynccontextmanager
async def gateways(own: str) -> AsyncIterator[trio.MemoryReceiveChannel[Url]]:
    """Ask from one of this machine's addresses; the descriptions' addresses arrive as they are told, each once."""
    send, receive = trio.open_memory_channel[Url](MAX_ANSWERS)
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)
        await udp.bind((own, 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask, udp)
            nursery.start_soon(_listen, udp, send)
            with receive:
                yield receive
            nursery.cancel_scope.cancel()


async def _ask(udp: trio.socket.SocketType) -> None:
    for _ in range(ASKS):
        for device in DEVICES:
            try:
                await udp.sendto(question(device), GROUP)
            except OSError:  # no way there at the moment
                await trio.lowlevel.checkpoint()
        await trio.sleep(ASK_EVERY_S)


async def _listen(udp: trio.socket.SocketType, send: trio.MemorySendChannel[Url]) -> None:
    seen: set[Url] = set()
    with send, trio.move_on_after(LISTEN_S):
        while len(seen) < MAX_ANSWERS:
            answer, (source, _) = await udp.recvfrom(MAX_BYTES)
            url = location(answer, source) if ipaddress.ip_address(source).is_private else None
            if url is not None and url not in seen:
                seen.add(url)
                send.send_nowait(url)
