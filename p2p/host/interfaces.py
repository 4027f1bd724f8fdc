"""This machine's interfaces: their addresses, and those that lead to a LAN."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from socket import AddressFamily

import psutil

from p2p.host.addresses import IpAddress, TcpAddress


@dataclass(frozen=True, slots=True)
class Interface:
    """prefix: the length of its network's."""

    host: str
    prefix: int

    @property
    def private(self) -> bool:
        return ipaddress.ip_address(self.host).is_private


def own_ips() -> tuple[IpAddress, ...]:
    """The addresses of interfaces that are up, both families, loopback's among them; no link-local ones."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found: dict[IpAddress, None] = {}
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries if name in up else ():
            if entry.family in (AddressFamily.AF_INET, AddressFamily.AF_INET6):
                ip = ipaddress.ip_address(entry.address.partition("%")[0])
                if not ip.is_link_local:
                    found[ip] = None
    return tuple(found)


def lans(bound: Iterable[TcpAddress]) -> frozenset[Interface]:
    """Those that are up and on which one of bound listens; never loopback."""
    hosts = {address.host for address in bound if address.family == "ip4"}
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = set()
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries if name in up else ():
            try:
                interface = ipaddress.IPv4Interface(f"{entry.address}/{entry.netmask}")
            except ValueError:  # another family's
                continue
            if not interface.ip.is_loopback and hosts & {"0.0.0.0", str(interface.ip)}:
                found.add(Interface(str(interface.ip), interface.network.prefixlen))
    return frozenset(found)
