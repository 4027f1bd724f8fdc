"""No prompt outside the client's node and the chosen worker: not in a file, a log, or a packet (invariant I8)."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from cli.local_swarm import LocalSwarm
from tests.e2e.asking import client_of, wait_served

CANARY = "zanzibar-quokka-7341"
ETH_P_ALL = 0x0003
ETHERNET_BYTES = 14


class Capture:
    """Every TCP payload on loopback, as (ports, payload), from an AF_PACKET socket."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
        self._socket.bind(("lo", 0))
        self._wake, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._read, name="loopback capture")
        self._thread.start()

    def close(self) -> None:
        os.write(self._stop, b"x")
        self._thread.join()
        os.close(self._stop)
        os.close(self._wake)
        self._socket.close()

    def payloads(self) -> Iterator[tuple[set[int], bytes]]:
        for packet in self.packets:
            ip = packet[ETHERNET_BYTES:]
            if len(ip) < 40:
                continue
            is_v4 = ip[0] >> 4 == 4
            if (ip[9] if is_v4 else ip[6]) != socket.IPPROTO_TCP:
                continue
            tcp = ip[(ip[0] & 0xF) * 4 :] if is_v4 else ip[40:]
            ports = {int.from_bytes(tcp[:2], "big"), int.from_bytes(tcp[2:4], "big")}
            yield ports, tcp[(tcp[12] >> 4) * 4 :]

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._socket, self._wake], [], [])
            if self._wake in ready:
                return
            self.packets.append(self._socket.recv(1 << 17))


@pytest.fixture
def capture() -> Iterator[Capture]:
    if os.geteuid() != 0:
        pytest.skip("capturing loopback needs root")
    capture = Capture()
    yield capture
    capture.close()


def test_a_canary_in_a_prompt_is_in_no_log_no_file_and_no_packet_between_nodes(
    swarm: LocalSwarm, capture: Capture
) -> None:
    founder = swarm.start("founder", roles="gateway,orchestrator").wait_ready()
    ticket = swarm.invite(founder)
    swarm.start("worker", ticket=ticket, roles="worker").wait_ready()
    wait_served(founder)
    question = f"Repeat: {CANARY}"
    answer = client_of(founder).chat.completions.create(
        model="tether-demo", messages=[{"role": "user", "content": question}], temperature=0, max_tokens=32
    )
    assert answer.choices[0].message.content
    shim = int(founder.url.rpartition(":")[2])
    swarm.stop()

    canary = CANARY.encode()
    seen = list(capture.payloads())
    assert any(canary in payload for ports, payload in seen if shim in ports), (
        "the client's own request is missing"
    )
    between_nodes = [payload for ports, payload in seen if shim not in ports]
    assert sum(map(len, between_nodes)) > 10_000, "the traffic between the nodes is missing"
    assert not any(canary in payload for payload in between_nodes)
    for path in swarm.root.rglob("*"):
        if path.is_file():
            assert canary not in path.read_bytes(), path
