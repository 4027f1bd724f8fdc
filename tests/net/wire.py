"""The internet between routers, in user space: a switch of TAP devices with delay and loss (netem is not everywhere).

    python -m tests.net.wire LOSS SEED

Reads one JSON object a line and answers each with an empty line: {"attach": [namespace, device, delay_s]},
{"cut": device}, {"mend": device}. A frame takes the delays of both ports that it crosses. It ends with its stdin.
ARP is never lost: it stands for nothing between real routers, and its retry of 1 s would be taken for the path's.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import selectors
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

TUNSETIFF: Final = 0x400454CA
TUNSETCARRIER: Final = 0x400454E2
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
CLONE_NEWNET: Final = 0x40000000
ARP: Final = b"\x08\x06"
BURST: Final = 64
"""Frames that are read from a port before the others have their turn."""


@dataclass(eq=False)
class Port:
    device: str
    fd: int
    delay_s: float
    cut: bool = False


class Wire:
    def __init__(self, loss: float, seed: str) -> None:
        self._loss = loss
        self._random = random.Random(seed)
        self._ports: dict[str, Port] = {}
        self._at: dict[bytes, Port] = {}
        self._flying: list[tuple[float, int, Port, bytes]] = []
        self._number = 0
        self._ready = selectors.DefaultSelector()

    def run(self) -> None:
        self._ready.register(0, selectors.EVENT_READ)
        orders = b""
        while True:
            wait_s = max(0.0, self._flying[0][0] - time.monotonic()) if self._flying else None
            for key, _ in self._ready.select(wait_s):
                if isinstance(key.data, Port):
                    self._receive(key.data)
                    continue
                read = os.read(0, 65_536)
                if not read:
                    return
                *whole, orders = (orders + read).split(b"\n")
                for line in whole:
                    self._obey(json.loads(line))
                    os.write(1, b"\n")
            self._deliver()

    def _obey(self, order: dict[str, object]) -> None:
        match order:
            case {"attach": [str(namespace), str(device), float(delay_s)]}:
                port = self._ports[device] = Port(device, _tap(namespace, device), delay_s)
                self._ready.register(port.fd, selectors.EVENT_READ, port)
            case {"cut": str(device)} | {"mend": str(device)}:
                port = self._ports[device]
                port.cut = "cut" in order
                fcntl.ioctl(port.fd, TUNSETCARRIER, struct.pack("i", not port.cut))
            case _:
                raise ValueError(order)

    def _receive(self, port: Port) -> None:
        for _ in range(BURST):
            try:
                frame = os.read(port.fd, 65_536)
            except BlockingIOError:
                return
            if port.cut or (frame[12:14] != ARP and self._random.random() < self._loss):
                continue
            self._at[frame[6:12]] = port
            known = self._at.get(frame[:6])
            for other in [known] if known else self._ports.values():
                if other is not port and not other.cut:
                    self._number += 1
                    due = time.monotonic() + port.delay_s + other.delay_s
                    heapq.heappush(self._flying, (due, self._number, other, frame))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._flying and self._flying[0][0] <= now:
            _, _, port, frame = heapq.heappop(self._flying)
            with suppress(OSError):  # a port that is down, or full like any queue of a router
                os.write(port.fd, frame)


def _tap(namespace: str, device: str) -> int:
    """Take the device in its namespace; the descriptor is good from here too. os.setns comes with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
        return fd
    finally:
        libc.setns(home, CLONE_NEWNET)
        os.close(there)
        os.close(home)


if __name__ == "__main__":
    Wire(float(sys.argv[1]), sys.argv[2]).run()
