"""What a path does to addresses and packets, by plain sockets.

python -m tests.net.probe serve           answers who asks with the address that it sees, once from another port too
python -m tests.net.probe ask ADDRESS…    prints one JSON object for each address (see `Seen`)
python -m tests.net.probe count ADDRESS N prints how many of N datagrams were answered
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from tests.net.internet import PORT

SERVER: Final = 4000
OTHER: Final = 4001
TCP_S: Final = 2.5
"""Long enough for one SYN to be lost: the kernel may take a second to tell a mended cable."""
UDP_S: Final = 0.4


@dataclass
class Seen:
    """tcp, udp: [host, port] that the server saw, None without an answer; udp_s: round trip; other: not asked."""

    tcp: list[object] | None = None
    udp: list[object] | None = None
    other: bool = False
    udp_s: float = 0.0


def serve() -> None:
    udp, other = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    udp.bind(("", SERVER))
    other.bind(("", OTHER))
    tcp = socket.create_server(("", SERVER))
    print("ready", flush=True)
    while True:
        for ready in select.select([udp, tcp], [], [])[0]:
            if ready is udp:
                _, source = udp.recvfrom(100)
                udp.sendto(json.dumps(source).encode(), source)
                other.sendto(b"", source)
            else:
                connection, source = tcp.accept()
                with connection, suppress(OSError):
                    connection.sendall(json.dumps(source).encode())


def ask(address: str, udp: socket.socket) -> Seen:
    """Over TCP and UDP from the port that nodes listen on."""
    seen = Seen()
    with socket.socket() as tcp, suppress(OSError):
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.settimeout(TCP_S)
        tcp.bind(("", PORT))
        tcp.connect((address, SERVER))
        seen.tcp = json.loads(tcp.recv(100))
    began = time.monotonic()
    udp.sendto(b"?", (address, SERVER))
    with suppress(TimeoutError):
        while True:
            answer, source = udp.recvfrom(100)
            if source[1] == OTHER:
                seen.other = True
            else:
                seen.udp, seen.udp_s = json.loads(answer), time.monotonic() - began
            if seen.udp and seen.other:
                break
    return seen


def count(address: str, asked: int, udp: socket.socket) -> int:
    for _ in range(asked):
        udp.sendto(b"?", (address, SERVER))
    answered = 0
    with suppress(TimeoutError):
        while True:
            answered += udp.recvfrom(100)[1][1] == SERVER
    return answered


def main() -> None:
    if sys.argv[1] == "serve":
        serve()
    udp = socket.socket(type=socket.SOCK_DGRAM)
    udp.settimeout(UDP_S)
    udp.bind(("", PORT))
    if sys.argv[1] == "count":
        print(count(sys.argv[2], int(sys.argv[3]), udp))
        return
    for address in sys.argv[2:]:
        print(json.dumps(asdict(ask(address, udp))))


if __name__ == "__main__":
    main()
