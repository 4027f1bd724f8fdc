"""A small internet for a test: public hosts, and hosts behind routers that translate addresses as real ones do.

host ── lan ── router ── wan ─┐
host ── lan ──────┘           ├─ wire (delay, loss)       11.0.0.0/24 is the public side: what reads addresses
public host ──────────────────┘                           takes it for global, and nothing here can reach it
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from uuid import uuid4

from tests.net.namespaces import Namespace, sweep
from tests.sources import ROOT

PORT: Final = 7576
"""What nodes listen on, unless a test says otherwise: routers of kind EIM translate it and the three after it."""
_EIM_SHIFT: Final = 20_000
_NOWHERE: Final = "11.0.0.254"
"""The default route's next hop: packets to other people's private networks vanish there without an answer."""
_NOWHERE_MAC: Final = "02:00:00:00:00:fe"


class Nat(Enum):
    """How a router maps and filters (RFC 4787, RFC 5382); all drop what nobody inside asked for, without an answer."""

    FULL_CONE = "full-cone"
    """Whoever knows the mapping comes in."""
    PORT_RESTRICTED = "port-restricted"
    """One mapping for all destinations, its port preserved; only asked ports of asked hosts come in."""
    EIM = "endpoint-independent"
    """Like PORT_RESTRICTED, but the outside port is another."""
    SYMMETRIC = "symmetric"
    """A new random port for each destination."""
    UDP_BLOCKED = "udp-blocked"
    """PORT_RESTRICTED, and no UDP leaves."""


@dataclass
class Host:
    """One machine. address: its own; public: as the internet sees it."""

    net: Internet
    namespace: Namespace
    address: str
    public: str
    cable: tuple[Namespace, str] | None

    def cut(self) -> None:
        """Pull the cable: the carrier goes, addresses and routes stay."""
        self._carrier(False)

    def mend(self) -> None:
        self._carrier(True)

    def move(self, address: str) -> None:
        """Another network: of a machine with its own line, in place of the address that it had."""
        self.namespace.ip("addr", "del", f"{self.address}/24", "dev", "eth0")
        self.namespace.ip("addr", "add", f"{address}/24", "dev", "eth0")
        self.namespace.ip("route", "replace", "default", "via", _NOWHERE)
        self.address = self.public = address

    def six(self, number: int, *, only: bool = False) -> str:
        """Give it an IPv6 address of the public side; only: and take the IPv4 one."""
        address = f"2a00:11::{number}"
        self.namespace.ip("addr", "add", f"{address}/64", "dev", "eth0", "nodad")
        if only:
            self.namespace.ip("addr", "del", f"{self.address}/24", "dev", "eth0")
        return address

    def _carrier(self, on: bool) -> None:
        if self.cable is None:
            self.net.order({"mend" if on else "cut": _device(self.public)})
        else:
            router, port = self.cable
            router.ip("link", "set", port, "up" if on else "down")


@dataclass
class Router:
    """namespace has two interfaces: wan (public) and lan, a bridge with a port for each host."""

    net: Internet
    namespace: Namespace
    public: str
    subnet: str
    kind: Nat
    hosts: list[Host] = field(default_factory=list)

    def host(self, purpose: str = "host") -> Host:
        """Another machine on this LAN."""
        number = len(self.hosts) + 2
        address, port = f"{self.subnet}.{number}", f"lan{number}"
        inside = self.net.namespace(purpose)
        self.namespace.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", inside.name)
        self.namespace.ip("link", "set", port, "master", "lan", "up")
        inside.ip("addr", "add", f"{address}/24", "dev", "eth0")
        inside.ip("link", "set", "eth0", "up")
        inside.ip("route", "add", "default", "via", f"{self.subnet}.1")
        made = Host(self.net, inside, address, self.public, (self.namespace, port))
        self.hosts.append(made)
        if self.kind is Nat.FULL_CONE and len(self.hosts) == 1:
            self.namespace.nft(
                f"add rule inet filter prerouting iifname wan ip daddr {self.public} dnat ip to {address}"
            )
        return made

    def upnp(self) -> subprocess.Popen[bytes]:
        """Start miniupnpd on it, as home routers have one; returns once it listens."""
        allowed = f"allow 1024-65535 {self.subnet}.0/24 1024-65535"
        lines = [
            "ext_ifname=wan",
            "listening_ip=lan",
            "enable_natpmp=no",
            "enable_upnp=yes",
            "http_port=5000",
        ]
        lines += ["secure_mode=yes", f"uuid={uuid4()}", allowed, "deny 0-65535 0.0.0.0/0 0-65535"]
        settings = self.net.folder / f"miniupnpd-{self.namespace.name}.conf"
        settings.write_text("\n".join(lines) + "\n")
        words = ["miniupnpd", "-d", "-f", str(settings), "-P", str(settings.with_suffix(".pid"))]
        process = self.net.start(self.namespace, *words, quiet=True)
        wait_for_port(self.namespace, 5000)
        return process

    def cut(self) -> None:
        """The line to the internet is gone, the LAN stays."""
        self.net.order({"cut": _device(self.public)})

    def mend(self) -> None:
        self.net.order({"mend": _device(self.public)})


class Internet:
    """A context: everything in it is gone afterwards. loss: of frames between routers; delays: one way, to the middle.

    seed: of the losses; a test that fails by chance shows it and can be given it again.
    """

    def __init__(self, *, loss: float = 0.0, seed: str = "") -> None:
        self.seed = seed or os.urandom(4).hex()
        self._loss = loss
        self._namespaces: list[Namespace] = []
        self._processes: list[subprocess.Popen[Any]] = []
        self._count = 0

    def __enter__(self) -> Internet:
        sweep()
        self._folder = tempfile.TemporaryDirectory(prefix="tether-test-")
        self.folder = Path(self._folder.name)
        print(f"internet: seed {self.seed}")
        command = [sys.executable, "-m", "tests.net.wire", str(self._loss), self.seed]
        self._wire = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent
        )
        self._processes.append(self._wire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        for namespace in reversed(self._namespaces):
            namespace.close()
        self._folder.cleanup()

    def public(self, purpose: str = "public", *, delay_ms: float = 0.0) -> Host:
        """A machine with a public address and no filter."""
        namespace = self.namespace(purpose)
        address = self._attach(namespace, "eth0", delay_ms)
        return Host(self, namespace, address, address, None)

    def router(self, kind: Nat, *, delay_ms: float = 0.0) -> Router:
        namespace = self.namespace("router")
        address = self._attach(namespace, "wan", delay_ms)
        subnet = f"10.{self._count}.0"
        namespace.ip("link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
        namespace.ip("addr", "add", f"{subnet}.1/24", "dev", "lan")
        namespace.ip("link", "set", "lan", "up")
        namespace.sysctl("ipv4/ip_forward", "1")
        namespace.nft(_rules(kind, address))
        return Router(self, namespace, address, subnet, kind)

    def behind(self, kind: Nat | None, *, delay_ms: float = 0.0) -> Host:
        """One host behind a router of its own; None: public."""
        return self.router(kind, delay_ms=delay_ms).host() if kind else self.public(delay_ms=delay_ms)

    def start(
        self, where: Namespace, *words: str, ready: bytes = b"", quiet: bool = False
    ) -> subprocess.Popen[bytes]:
        """A program in a namespace, killed at the end, or with this process. ready: its first line, waited for."""
        process = subprocess.Popen(
            where.command(*words),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if ready else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if quiet else None,
            preexec_fn=die_with_parent,
        )
        self._processes.append(process)
        if process.stdout is not None and process.stdout.readline().strip() != ready:
            raise RuntimeError(f"{words} ended with {process.wait()}.")
        return process

    def namespace(self, purpose: str) -> Namespace:
        namespace = Namespace(purpose)
        self._namespaces.append(namespace)
        return namespace

    def order(self, order: dict[str, object]) -> None:
        """To the wire; returns once it has obeyed."""
        assert self._wire.stdin is not None and self._wire.stdout is not None
        self._wire.stdin.write(json.dumps(order).encode() + b"\n")
        self._wire.stdin.flush()
        if self._wire.stdout.readline() != b"\n":
            raise RuntimeError(f"The wire ended with {self._wire.wait()} at {order}.")

    def _attach(self, namespace: Namespace, name: str, delay_ms: float) -> str:
        self._count += 1
        address = f"11.0.0.{self._count}"
        device = _device(address)
        self.order({"attach": [namespace.name, device, delay_ms / 1000]})
        namespace.ip("link", "set", device, "name", name)
        namespace.ip("addr", "add", f"{address}/24", "dev", name)
        namespace.ip("link", "set", name, "up")
        namespace.ip("neigh", "add", _NOWHERE, "lladdr", _NOWHERE_MAC, "dev", name)
        namespace.ip("route", "add", "default", "via", _NOWHERE)
        return address


def die_with_parent() -> None:
    """Between fork and exec: the kernel kills the child when the thread that made it ends (prctl(2), option 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def wait_for_port(where: Namespace, port: int) -> None:
    """Until something there listens on a TCP port; the test's time limit ends it."""
    while f":{port} " not in where.run("ss", "-Hltn"):
        time.sleep(0.01)


def _device(address: str) -> str:
    return f"tap{address.rpartition('.')[2]}"


def _rules(kind: Nat, address: str) -> str:
    """The names of tables and chains are those that miniupnpd looks for."""
    mapping = "masquerade fully-random" if kind is Nat.SYMMETRIC else "masquerade"
    moved = [
        f"oifname wan meta l4proto {{ tcp, udp }} th sport {port} snat ip to {address}:{port + _EIM_SHIFT}"
        for port in range(PORT, PORT + 4)
        if kind is Nat.EIM
    ]
    udp = "meta l4proto udp drop" if kind is Nat.UDP_BLOCKED else ""
    lines = "\n".join(moved)
    return f"""
        table inet filter {{
            chain miniupnpd {{ }}
            chain prerouting_miniupnpd {{ }}
            chain postrouting_miniupnpd {{ }}
            chain prerouting {{
                type nat hook prerouting priority -100;
                jump prerouting_miniupnpd
            }}
            chain postrouting {{
                type nat hook postrouting priority 100;
                jump postrouting_miniupnpd
                {lines}
                oifname wan {mapping}
            }}
            chain input {{
                type filter hook input priority 0; policy drop;
                iifname {{ lan, lo }} accept
                ct state established,related accept
            }}
            chain forward {{
                type filter hook forward priority 0; policy drop;
                {udp}
                iifname lan accept
                ct state established,related accept
                ct status dnat accept
                jump miniupnpd
            }}
        }}
    """
