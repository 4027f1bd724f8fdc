"""Whole daemons on a small internet: what `tetherctl status` says of their place in it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cli.control import Control
from p2p.errors import TetherError
from tests.net.internet import PORT, Host, Internet, Nat
from tests.net.namespaces import needs_namespaces

pytestmark = needs_namespaces
WAIT_S: Final = 60.0


class Daemon:
    """`tetherd join` on a host, as a person starts it but for what would look around in the LAN."""

    def __init__(self, net: Internet, host: Host, ticket: str = "") -> None:
        self.host = host
        self.data_dir = Path(net.folder) / host.namespace.name
        words = ["--region", "eu", "--data-dir", str(self.data_dir), "--http", "127.0.0.1:0", "--no-mdns"]
        words += ["--upnp", "off", "--log-format", "json", *(["--ticket", ticket] if ticket else [])]
        net.start(host.namespace, sys.executable, "-m", "cli.tetherd", "join", *words, quiet=True)

    def status(self) -> dict[str, Any]:
        try:
            return dict(Control(self.data_dir).get("/status"))
        except TetherError:
            return {"state": "starting", "reachability": {"state": ""}, "paths": [], "addresses": []}

    def until(self, true: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_S
        while not true(told := self.status()):
            assert time.monotonic() < deadline, f"{what}: {told}"
            time.sleep(0.1)
        return told

    def invite(self) -> str:
        self.until(lambda told: told["state"] == "ready", "it starts")
        return str(Control(self.data_dir).post("/invite", {"uses": 4})["ticket"])


def reachable(state: str) -> Callable[[dict[str, Any]], bool]:
    return lambda told: bool(told["reachability"]["state"] == state)


def test_status_says_who_is_reachable_who_is_private_and_over_what_they_are_connected() -> None:
    with Internet() as net:
        founder = Daemon(net, net.public())
        ticket = founder.invite()
        hidden = [Daemon(net, net.behind(Nat.SYMMETRIC), ticket) for _ in range(2)]
        founder.until(reachable("public"), "the founder is reachable")
        told = [one.until(reachable("private"), "a daemon behind a router is private") for one in hidden]
        names = [one["nodeId"] for one in told]
        for one, other in zip(hidden, reversed(names), strict=True):
            seen = one.until(
                lambda told, other=other: any(path["peer"] == other for path in told["paths"]),  # type: ignore[misc]
                "both behind routers that cannot be punched are connected all the same",
            )
            paths = {path["peer"]: path for path in seen["paths"]}
            relay = founder.status()["nodeId"]
            assert (paths[other]["path"], paths[other]["relay"]) == ("relayed", relay)
            assert (paths[relay]["path"], paths[relay]["relay"]) == ("direct", None)
            outside = f"/ip4/{one.host.public}/tcp/"
            assert not any(text.startswith(outside) for text in seen["addresses"])


def test_a_daemon_that_listens_everywhere_goes_on_where_its_machine_moves_to() -> None:
    with Internet() as net:
        founder = Daemon(net, net.public())
        laptop_host = net.public()
        laptop_host.six(7)
        laptop = Daemon(net, laptop_host, founder.invite())
        told = laptop.until(lambda told: told["state"] == "ready", "it joins")
        assert {f"/ip4/{laptop_host.address}/tcp/{PORT}", f"/ip6/2a00:11::7/tcp/{PORT}"} <= set(
            told["addresses"]
        )
        laptop_host.move("11.0.0.77")
        new = f"/ip4/11.0.0.77/tcp/{PORT}"
        laptop.until(lambda told: new in told["addresses"] and told["paths"], "it announces where it is now")
        founder.until(
            lambda told: any(
                path["peer"] == laptop.status().get("nodeId") and "11.0.0.77" in (path["address"] or "")
                for path in told["paths"]
            ),
            "the founder is connected to the new address",
        )
