"""This machine's interfaces: those that lead to a LAN, and whether one is the internet's own."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from p2p.host.addresses import TcpAddress


@dataclass(frozen=True, slots=True)
class Interface:
    """prefix: the length of its network's."""

    host: str
    prefix: int

    @property
    def private(self) -> bool:
        return ipaddress.ip_address(self.host).is_private


def outside(family: str) -> bool:
    """Whether one of this machine's own addresses of a family, ip4 or ip6, is one of the internet's."""
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            try:
                ip = ipaddress.ip_address(entry.address.partition("%")[0])
            except ValueError:  # a hardware address
                continue
            if family == f"ip{ip.version}" and ip.is_global:
                return True
    return False


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
