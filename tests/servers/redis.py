"""A Redis server of the tests' own, in a temporary directory, on loopback."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class RedisServer:
    """Durable before it answers."""

    program: str
    folder: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it answers."""
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        command = ["redis-server", *(part for key, value in options.items() for part in (f"--{key}", value))]
        # Debian's redis-tools has the server under another name: it does what its first argument says.
        self._process = subprocess.Popen(command, executable=self.program, stdout=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(16).startswith(b"+PONG"):
                        return
            time.sleep(0.05)
        raise RuntimeError("redis-server does not answer")

    def send(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal it and wait for its end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(10)


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Skips the test, saying why, where Redis is not installed."""
    program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if program is None:
        pytest.skip("Redis is not installed (Debian: apt-get install redis-tools)")
    folder = Path(tempfile.mkdtemp(prefix="tether-redis-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    server = RedisServer(program, folder, port)
    try:
        server.start()
        yield server
    finally:
        server.send(signal.SIGCONT)
        server.kill()
        shutil.rmtree(folder)
