"""A PostgreSQL server of the tests' own: made by initdb in a temporary directory, on loopback and a socket there."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.sources import ROOT


@dataclass
class PostgresServer:
    """binaries: the folder of one version's programs; folder: the socket's, with the cluster in `data`."""

    binaries: Path
    folder: Path
    port: int
    user: str
    settings: tuple[str, ...] = ()
    databases: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None)

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Returns once it answers."""
        options = [f"--{name}" for name in self.settings]
        place = ["-D", self.folder / "data", "-k", self.folder, "-h", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(
            [self.binaries / "postgres", *place, *options],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
            cwd=self.folder,
            **_as(self.user),
        )
        ready = [self.binaries / "pg_isready", "-q", "-h", self.folder, "-p", str(self.port), "-t", "10"]
        for _ in range(200):
            if subprocess.run(ready, check=False).returncode == 0:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError((self.folder / "log").read_text())

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal the postmaster and wait for its end; SIGKILL takes its backends along, as a power cut would."""
        if self._process is None or self._process.poll() is not None:
            return
        if number == signal.SIGKILL:
            self.signal_all(number)
        else:
            self._process.send_signal(number)
        self._process.wait(10)

    def signal_all(self, number: int) -> None:
        """Signal the postmaster and its backends: SIGSTOP makes it as slow as can be."""
        if self._process is None or self._process.poll() is not None:
            return
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for process in (self._process.pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def new_database(self) -> str:
        """Its URL."""
        self.databases += 1
        name = f"test{self.databases}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run it as the server's owner, and return what it prints."""
        command = [
            self.binaries / "psql",
            "-qAtX",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            statement,
            self.url(database),
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


@contextmanager
def postgres_server(*settings: str, parent: Path | None = None) -> Iterator[PostgresServer]:
    """Skips the test, saying why, where PostgreSQL is not installed.

    settings: such as fsync=off; parent: the folder to be in, if not the one for temporary files.
    """
    with _folder(parent) as (binaries, folder, user):
        command = [binaries / "initdb", "-D", folder / "data", "-U", user, "-A", "trust", "-E", "UTF8"]
        options = ["--no-sync", "--locale=C", "--wal-segsize=1"]
        subprocess.run([*command, *options], check=True, capture_output=True, cwd=folder, **_as(user))
        yield from _running(PostgresServer(binaries, folder, _free_port(), user, settings))


@contextmanager
def standby_of(primary: PostgresServer) -> Iterator[PostgresServer]:
    """A streaming replica, made as deploy/postgres/make-replica.sh makes it."""
    with _folder(None) as (binaries, folder, user):
        script = ROOT / "deploy" / "postgres" / "make-replica.sh"
        environ = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"}
        command = ["bash", "-s", primary.url("postgres"), folder / "data"]
        with script.open() as text:
            subprocess.run(
                command, stdin=text, check=True, capture_output=True, cwd=folder, env=environ, **_as(user)
            )
        yield from _running(PostgresServer(binaries, folder, _free_port(), user, primary.settings))


def _running(server: PostgresServer) -> Iterator[PostgresServer]:
    server.start()
    try:
        yield server
    finally:
        server.signal_all(signal.SIGCONT)
        server.kill(signal.SIGINT)


@contextmanager
def _folder(parent: Path | None) -> Iterator[tuple[Path, Path, str]]:
    """The programs, a folder that PostgreSQL's user owns, and that user."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="tether-pg-", dir=parent))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, user)
        yield binaries, folder, user
    finally:
        shutil.rmtree(folder)


@cache
def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("initdb")
    found = found or ([Path(on_path).resolve()] if on_path else [])
    return found[-1].parent if found else None


def _as(user: str) -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    return {"user": user, "group": user, "extra_groups": []} if os.geteuid() == 0 else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
