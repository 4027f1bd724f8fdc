"""No prompt outside the client's node and the chosen worker: not in a file, a log, or a packet (invariant I8)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.local_swarm import LocalSwarm
from tests.e2e.asking import client_of, wait_served

CANARY = "zanzibar-quokka-7341"


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[Path]:
    """All loopback TCP traffic of the test, captured by tcpdump."""
    if os.geteuid() != 0 or shutil.which("tcpdump") is None:
        pytest.skip("capturing loopback needs root and tcpdump")
    file = tmp_path / "loopback.pcap"
    command = [
        "tcpdump",
        "-i",
        "lo",
        "-U",
        "-w",
        str(file),
        "-Z",
        "root",
        "-s",
        "0",
        "--immediate-mode",
        "tcp",
    ]
    dump = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert dump.stderr is not None
    assert any("listening" in line for line in iter(dump.stderr.readline, ""))
    yield file
    dump.send_signal(signal.SIGINT)
    dump.wait(10)
    dump.stderr.close()


def test_a_canary_in_a_prompt_is_in_no_log_no_file_and_no_packet_between_nodes(
    swarm: LocalSwarm, capture: Path
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

    traffic = capture.read_bytes()
    assert traffic.count(CANARY.encode()) >= 1, (
        "the capture has to contain the client's own request to its shim"
    )
    between_nodes = list(_payloads(traffic, other_than=shim))
    assert sum(map(len, between_nodes)) > 10_000, "the capture has to contain the traffic between the nodes"
    assert not any(CANARY.encode() in payload for payload in between_nodes)
    for path in swarm.root.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


def _payloads(pcap: bytes, other_than: int) -> Iterator[bytes]:
    """Each captured packet (pcap file format, Ethernet, IPv4 or IPv6) that is not to or from a port."""
    order = "little" if pcap[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else "big"
    at = 24
    while at + 16 <= len(pcap):
        length = int.from_bytes(pcap[at + 8 : at + 12], order)  # type: ignore[arg-type]
        packet = pcap[at + 16 : at + 16 + length]
        at += 16 + length
        ip = packet[14:]
        tcp = ip[(ip[0] & 0xF) * 4 :] if ip[:1] and ip[0] >> 4 == 4 else ip[40:]
        if len(tcp) < 20:
            continue
        ports = (int.from_bytes(tcp[:2], "big"), int.from_bytes(tcp[2:4], "big"))
        if other_than not in ports:
            yield tcp[(tcp[12] >> 4) * 4 :]
