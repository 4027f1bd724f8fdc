"""Keeps the listening port open on the home router while the node lives.

searching ──a gateway mapped it──> mapped ──each RENEW_S──> mapped
    ↑ └─ nobody did: again after AGAIN_S    │ renewal failed
    └───────────────────────────────────────┘            left: unmapped
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog
import trio

from p2p.host.addresses import TcpAddress
from p2p.host.upnp.fault import GatewayFault
from p2p.host.upnp.gateway import CONFLICT, Gateway, describe
from p2p.host.upnp.http import Url
from p2p.host.upnp.ssdp import gateways

LEASE_S: Final = 3_600
"""A node that dies without a word leaves its port open no longer than this."""
RENEW_S: Final = 1_200.0
"""A third of the lease; it also finds a new external address, and a router that restarted and forgot."""
AGAIN_S: Final = 600.0
"""Between searches that found nothing: a router may come back, or be switched to allow it."""
PORTS_TRIED: Final = 4
"""The listening port first, then any: another node in this LAN may have it."""
ANY_PORT: Final = (20_000, 60_000)
GOODBYE_S: Final = 2.0
"""For unmapping when the node leaves."""

Search = Callable[[str], AbstractAsyncContextManager[trio.MemoryReceiveChannel[Url]]]

_log = structlog.get_logger()


class PortMapping:
    """port, hosts: what is listened on, and this machine's addresses on LANs. address: where the internet comes in.

    changed: called when that is another.
    """

    def __init__(
        self,
        port: int,
        hosts: Callable[[], Sequence[str]],
        search: Search = gateways,
        *,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._port = port
        self._hosts = hosts
        self._find = search
        self._gateway: Gateway | None = None
        self._external = 0
        self._changed = changed
        self._again = trio.Event()
        self.address: TcpAddress | None = None

    async def run(self) -> None:
        """Search, map and renew until cancelled; then unmap."""
        try:
            while True:
                if self._gateway is None:
                    await self._search()
                else:
                    await self._renew(self._gateway)
                with trio.move_on_after(AGAIN_S if self._gateway is None else RENEW_S):
                    await self._again.wait()
                self._again = trio.Event()
        finally:
            with trio.move_on_after(GOODBYE_S, shield=True):
                await self._leave()

    def moved(self) -> None:
        """Ask at once: in another network the gateway of the one before is out of reach."""
        if self._gateway is not None and self._gateway.here not in self._hosts():
            self._gateway = None
            self._now(None)
        self._again.set()

    async def _search(self) -> None:
        for own in self._hosts():
            try:
                async with self._find(own) as found:
                    async for url in found:
                        try:
                            await self._map(await describe(url))
                            return
                        except GatewayFault as fault:
                            _log.info("upnp.refused", gateway=url.host, detail=str(fault))
            except OSError as error:
                _log.debug("upnp.silent", address=own, detail=str(error))

    async def _map(self, gateway: Gateway) -> None:
        host = await gateway.external_ip()
        for external in [self._port, *(random.randrange(*ANY_PORT) for _ in range(PORTS_TRIED - 1))]:
            try:
                await gateway.map_port(external, self._port, LEASE_S)
            except GatewayFault as fault:
                if fault.code != CONFLICT:
                    raise
                continue
            self._gateway, self._external = gateway, external
            self._now(TcpAddress("ip4", host, external))
            return
        raise GatewayFault("The gateway has no free port.", CONFLICT)

    async def _renew(self, gateway: Gateway) -> None:
        try:
            host = await gateway.external_ip()
            await gateway.map_port(self._external, self._port, LEASE_S)
            self._now(TcpAddress("ip4", host, self._external))
        except GatewayFault as fault:
            _log.info("upnp.lost", detail=str(fault))
            self._gateway = None
            self._now(None)
            await self._search()

    async def _leave(self) -> None:
        if self._gateway is not None:
            try:
                await self._gateway.unmap(self._external)
            except GatewayFault as fault:
                _log.info("upnp.left_open", detail=str(fault))

    def _now(self, address: TcpAddress | None) -> None:
        if address != self.address:
            self.address = address
            _log.info("upnp.mapped" if address else "upnp.unmapped", address=str(address or ""))
            self._changed()
