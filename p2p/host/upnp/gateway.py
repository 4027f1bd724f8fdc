"""A gateway's service: its external address, and ports that it lets in (UPnP WANIPConnection:1 and :2)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from p2p.host.upnp import xml
from p2p.host.upnp.fault import GatewayFault
from p2p.host.upnp.http import Url, request

SERVICES: Final = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
"""The better ones first."""
ONLY_PERMANENT: Final = 725
CONFLICT: Final = 718
"""The port is somebody else's."""
LABEL: Final = "tether"


@dataclass(frozen=True, slots=True)
class Gateway:
    """here: this node's address in its LAN."""

    control: Url
    service: str
    here: str

    async def external_ip(self) -> str:
        """Raises GatewayFault unless it is one that the internet can reach."""
        text = (await self._call("GetExternalIPAddress")).get("NewExternalIPAddress", "")
        try:
            address = ipaddress.IPv4Address(text)
        except ValueError as error:
            raise GatewayFault("The gateway's external address is none.") from error
        if not address.is_global:
            raise GatewayFault(f"The gateway itself is behind another: its external address is {address}.")
        return str(address)

    async def map_port(self, external: int, internal: int, lease_s: int) -> int:
        """Let in external for this node's internal port, and return the lease that was given, 0: for ever.

        Raises GatewayFault, code CONFLICT if the port is taken.
        """
        try:
            await self._add(external, internal, lease_s)
        except GatewayFault as fault:
            if fault.code != ONLY_PERMANENT:
                raise
            await self._add(external, internal, 0)
            return 0
        return lease_s

    async def unmap(self, external: int) -> None:
        await self._call(
            "DeletePortMapping",
            ("NewRemoteHost", ""),
            ("NewExternalPort", str(external)),
            ("NewProtocol", "TCP"),
        )

    async def _add(self, external: int, internal: int, lease_s: int) -> None:
        await self._call(
            "AddPortMapping",
            ("NewRemoteHost", ""),
            ("NewExternalPort", str(external)),
            ("NewProtocol", "TCP"),
            ("NewInternalPort", str(internal)),
            ("NewInternalClient", self.here),
            ("NewEnabled", "1"),
            ("NewPortMappingDescription", LABEL),
            ("NewLeaseDuration", str(lease_s)),
        )

    async def _call(self, action: str, *arguments: tuple[str, str]) -> dict[str, str]:
        values = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments)
        body = (
            '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
            's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
            f'<u:{action} xmlns:u="{self.service}">{values}</u:{action}></s:Body></s:Envelope>'
        )
        headers = (
            ("Content-Type", 'text/xml; charset="utf-8"'),
            ("SOAPAction", f'"{self.service}#{action}"'),
        )
        answer = await request(self.control, "POST", headers, body.encode())
        root = xml.read(answer.body)
        for error in root.all("UPnPError"):
            code = error.value("errorCode")
            raise GatewayFault(
                f"The gateway refuses {action}: {error.value('errorDescription')[:100]}",
                int(code) if code.isascii() and code.isdigit() else 0,
            )
        for response in root.all(f"{action}Response"):
            return {child.name: child.text.strip() for child in response.children}
        raise GatewayFault(f"The gateway does not answer {action}: status {answer.status}.")


async def describe(url: Url) -> Gateway:
    """Read a gateway's description. Raises GatewayFault if it has no service that maps ports."""
    answer = await request(url)
    if answer.status != 200:
        raise GatewayFault(f"The gateway does not describe itself: status {answer.status}.")
    services = {
        service.value("serviceType"): service.value("controlURL")
        for service in xml.read(answer.body).all("service")
    }
    for kind in SERVICES:
        if services.get(kind):
            return Gateway(url.join(services[kind]), kind, answer.here)
    raise GatewayFault("The gateway maps no ports.")
