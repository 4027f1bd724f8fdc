"""Where the nodes of a benchmark are: each behind a line of limited speed, or on loopback with a limit of its own.

Lines are network namespaces around one bridge, with a token bucket at both ends of each (tc-tbf(8)): way out and way in
are as fast as the line, headers count. That needs root; elsewhere each program is told to send no faster.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Final

from tests.net.namespaces import Namespace, missing

_CLONE_NEWNET: Final = 0x4000_0000
_SUBNET: Final = "10.77.0"


@dataclass(frozen=True, slots=True)
class Place:
    """command: what begins the command line of a program there; up_bytes_per_s: what it has to limit by itself."""

    address: str
    command: tuple[str, ...] = ()
    up_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """middle: an address that all of them reach, and its namespace."""

    nodes: Sequence[Place]
    middle: str = "127.0.0.1"
    namespace: Namespace | None = None

    @property
    def how(self) -> str:
        return "capped lines" if self.namespace else "capped programs"

    def listener(self) -> socket.socket:
        """A socket that all of them can connect to."""
        if self.namespace is None:
            return socket.create_server((self.middle, 0))
        made: list[socket.socket] = []
        thread = threading.Thread(target=lambda: made.append(_listener(self.namespace, self.middle)))
        thread.start()
        thread.join()
        return made[0]


@contextmanager
def places(count: int, bytes_per_s: float) -> Iterator[Places]:
    """So many, each with a line of that speed."""
    if missing():
        yield Places([Place("127.0.0.1", up_bytes_per_s=bytes_per_s)] * count)
        return
    with ExitStack() as stack:
        middle = stack.enter_context(closing(Namespace("middle")))
        middle.ip("link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
        middle.ip("addr", "add", f"{_SUBNET}.1/24", "dev", "lan")
        middle.ip("link", "set", "lan", "up")
        nodes = []
        for number in range(count):
            inside = stack.enter_context(closing(Namespace(f"node{number}")))
            port, address = f"port{number}", f"{_SUBNET}.{number + 2}"
            middle.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", inside.name)
            middle.ip("link", "set", port, "master", "lan", "up")
            inside.ip("addr", "add", f"{address}/24", "dev", "eth0")
            inside.ip("link", "set", "eth0", "up")
            for namespace, device in ((inside, "eth0"), (middle, port)):
                _limit(namespace, device, bytes_per_s)
            nodes.append(Place(address, tuple(inside.command())))
        yield Places(nodes, f"{_SUBNET}.1", middle)


def _limit(namespace: Namespace, device: str, bytes_per_s: float) -> None:
    rate = f"{int(bytes_per_s * 8)}bit"
    namespace.run(*f"tc qdisc add dev {device} root tbf rate {rate} burst 64kb latency 100ms".split())


def _listener(namespace: Namespace | None, address: str) -> socket.socket:
    """In a thread of its own, which stays in that network: a socket belongs to the one that it was made in."""
    assert namespace is not None
    here = os.open(f"/run/netns/{namespace.name}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(here, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        return socket.create_server((address, 0))
    finally:
        os.close(here)
