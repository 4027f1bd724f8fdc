"""Network namespaces that a test made, and no other; none outlives its test, those of a killed run not the next.

A name holds the process that made it and when that process started, so that parallel runs never meet, and a
leftover is told from a namespace in use. Every link is made inside a namespace: this machine's own are not touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

import pytest

PREFIX: Final = "tether-test"
COMMAND_S: Final = 20.0
_numbers = count(1)


@cache
def missing() -> str:
    """What this machine lacks for these tests, as a sentence; empty if nothing."""
    if os.geteuid():
        return "Network namespaces need root."
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        if not shutil.which(program):
            return f"{program} is missing; it is in Debian's {package}."
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing."
    try:
        Namespace("probe").close()
    except subprocess.CalledProcessError as error:
        return f"This machine makes no network namespaces: {error.stderr.strip()[:200]}"
    return ""


class Namespace:
    """One machine's network: nothing but loopback until links are put in."""

    def __init__(self, purpose: str) -> None:
        self.name = f"{_own()}{next(_numbers)}-{purpose}"
        _command(["ip", "netns", "add", self.name])
        self.ip("link", "set", "lo", "up")

    def ip(self, *words: str) -> str:
        """ip(8), here."""
        return _command(["ip", "-n", self.name, *words])

    def nft(self, rules: str) -> None:
        _command(self.command("nft", "-f", "-"), rules)

    def sysctl(self, path: str, value: str) -> None:
        """path: under /proc/sys/net."""
        _command(self.command("tee", f"/proc/sys/net/{path}"), value)

    def run(self, *words: str) -> str:
        return _command(self.command(*words))

    def command(self, *words: str) -> list[str]:
        """What runs a program here, and as the same process, so that its id and signals are the program's."""
        return ["ip", "netns", "exec", self.name, *words]

    def close(self) -> None:
        _remove(self.name)


def sweep() -> None:
    """Remove what test processes left that are no more, and end what still runs in it."""
    for name in _command(["ip", "netns", "list"]).splitlines():
        parts = name.split(" ")[0].split("-")
        if name.startswith(f"{PREFIX}-") and len(parts) > 4 and _started(int(parts[2])) != parts[3]:
            _remove(name.split(" ")[0])


def _remove(name: str) -> None:
    for pid in _command(["ip", "netns", "pids", name]).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _command(["ip", "netns", "del", name])


@cache
def _own() -> str:
    return f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}-"


def _started(pid: int) -> str:
    """In clock ticks since boot (proc(5)); empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _command(words: Sequence[str], stdin: str = "") -> str:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=True, timeout=COMMAND_S)
    return done.stdout


needs_namespaces = pytest.mark.skipif(bool(missing()), reason=missing())
