"""The test bed itself: its routers do what their kinds say, and nothing of it stays behind."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests.net.internet import PORT, Host, Internet, Nat
from tests.net.namespaces import PREFIX, Namespace, needs_namespaces, sweep
from tests.net.probe import Seen
from tests.sources import ROOT

pytestmark = needs_namespaces


@dataclass(frozen=True)
class Expected:
    """same: two servers see one mapping; preserved: with the inside port; open: others come in; udp: it leaves."""

    same: bool
    preserved: bool
    open: bool = False
    udp: bool = True


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (None, Expected(same=True, preserved=True, open=True)),
        (Nat.FULL_CONE, Expected(same=True, preserved=True, open=True)),
        (Nat.PORT_RESTRICTED, Expected(same=True, preserved=True)),
        (Nat.EIM, Expected(same=True, preserved=False)),
        (Nat.SYMMETRIC, Expected(same=False, preserved=False)),
        (Nat.UDP_BLOCKED, Expected(same=True, preserved=True, udp=False)),
    ],
    ids=lambda value: value.name if isinstance(value, Nat) else "",
)
def test_a_router_maps_and_filters_as_its_kind_says(kind: Nat | None, expected: Expected) -> None:
    with Internet() as net:
        servers = [serving(net), serving(net)]
        host = net.behind(kind)
        first, second = ask(host, *servers)
        assert first.tcp is not None and first.tcp[0] == host.public
        assert (first.tcp == (second.tcp or ())) is expected.same
        assert (first.tcp[1] == PORT) is expected.preserved
        assert (first.udp is not None, first.other) == (expected.udp, expected.open)
        if expected.udp:
            assert (first.udp == second.udp) is expected.same


def test_delays_add_up_and_some_packets_are_lost() -> None:
    with Internet(loss=0.3) as net:
        server = serving(net, delay_ms=20)
        host = net.public(delay_ms=30)
        seen = [answer for answer in ask(host, *[server] * 2) if answer.udp]
        assert not seen or min(answer.udp_s for answer in seen) >= 0.1
        answered = int(probe(host, "count", server, "200"))
        assert 0 < answered < 190, f"seed {net.seed}"


def test_a_pulled_cable_is_felt_at_the_host_and_mended() -> None:
    with Internet() as net:
        server = serving(net)
        lan = net.router(Nat.PORT_RESTRICTED)
        public, inside = net.public(), lan.host()
        for host in (public, inside):
            host.cut()
            assert "NO-CARRIER" in host.namespace.ip("link", "show", "eth0")
            assert probe(host, "count", server, "1") == "0"
            host.mend()
            assert ask(host, server)[0].tcp
        lan.cut()
        assert probe(inside, "count", server, "1") == "0"
        lan.mend()
        assert ask(inside, server)[0].tcp


def test_what_a_killed_run_left_is_swept_and_what_is_in_use_is_not() -> None:
    leave = (
        "import os, subprocess; from tests.net.namespaces import Namespace; made = Namespace('left');"
        "subprocess.Popen(made.command('sleep', '600'), stdout=subprocess.DEVNULL);"
        "print(made.name, flush=True); os._exit(9)"
    )
    left = subprocess.run(
        [sys.executable, "-c", leave], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=30
    ).stdout.strip()
    mine = Namespace("mine")
    try:
        sweep()
        there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert left.startswith(PREFIX) and left not in there
        assert mine.name in there
    finally:
        mine.close()


def serving(net: Internet, *, delay_ms: float = 0.0) -> str:
    host = net.public("server", delay_ms=delay_ms)
    net.start(host.namespace, sys.executable, "-m", "tests.net.probe", "serve", ready=b"ready")
    return host.address


def ask(host: Host, *servers: str) -> list[Seen]:
    return [Seen(**json.loads(line)) for line in probe(host, "ask", *servers).splitlines()]


def probe(host: Host, *words: str) -> str:
    return host.namespace.run(sys.executable, "-m", "tests.net.probe", *words).strip()
