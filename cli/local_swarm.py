"""A swarm of real daemons on this machine, each a process of its own: for the demo, the tests and the benchmarks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from cli.control import Control
from p2p.errors import INTERNAL, NOT_RUNNING, TetherError

Event = dict[str, Any]
_Found = TypeVar("_Found")
PROGRAM: Final = "cli.tetherd"
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 45.0
POLL_S: Final = 0.05


class LocalNode:
    """One daemon process. Its JSON log lines are kept as events; its stderr is a file in the data directory."""

    def __init__(
        self,
        name: str,
        data_dir: Path,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        program: str = PROGRAM,
    ) -> None:
        self.name = name
        self.data_dir = data_dir
        self.log = data_dir.parent / f"{name}.log"
        self.began = time.monotonic()
        self.events: list[Event] = []
        self._times: list[float] = []
        self._news = threading.Condition()
        self._ended = False
        command = [
            sys.executable,
            "-m",
            program,
            "join",
            "--data-dir",
            str(data_dir),
            "--log-format",
            "json",
        ]
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **environ},
        )
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        """The shim's base URL, without /v1."""
        return Control(self.data_dir).shim()

    @property
    def control(self) -> Control:
        return Control(self.data_dir)

    @property
    def node_id(self) -> str:
        return str(self.wait_event("phase", phase="identity")["detail"])

    def wait_event(self, event: str, timeout_s: float = START_TIMEOUT_S, **fields: Any) -> Event:
        """Wait for a log line with these fields. Raises TetherError if the process ends or time runs out first."""

        def matching() -> Event | None:
            wanted = {"event": event, **fields}
            return next((line for line in self.events if wanted.items() <= line.items()), None)

        with self._news:
            self._news.wait_for(lambda: matching() is not None or self._ended, timeout_s)
            found = matching()
        if found is None:
            raise TetherError(
                NOT_RUNNING, f"{self.name} did not report {event} {fields}; its log ends: {self._tail()}"
            )
        return found

    def seen_at(self, phase: str) -> float:
        """When (time.monotonic) this process printed that it had reached a phase."""
        event = self.wait_event("phase", phase=phase)
        return self._times[self.events.index(event)]

    def wait_ready(self) -> LocalNode:
        self.wait_event("phase", phase="ready")
        return self

    def metrics(self) -> dict[str, float]:
        """All samples of /metrics by name and labels as they are printed there."""
        import urllib.request

        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self.process.kill()
        self.process.wait()
        self._reader.join(STOP_TIMEOUT_S)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        status = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.log.open("wb") as log, self.process.stderr as lines:
            for line in lines:
                log.write(line)
                log.flush()
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                with self._news:
                    self.events.append(event)
                    self._times.append(time.monotonic())
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _tail(self) -> str:
        return self.log.read_text("utf-8", "replace")[-2000:] if self.log.exists() else ""


class LocalSwarm(AbstractContextManager["LocalSwarm"]):
    """Starts daemons in a temporary folder and leaves neither a process nor a file behind."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tether-")
        self.root = Path(self._folder.name)
        self.nodes: dict[str, LocalNode] = {}

    def start(
        self,
        name: str,
        region: str = "eu",
        *,
        ticket: str | None = None,
        roles: str | None = None,
        rate: float | None = None,
        models: Sequence[str] = (),
        listen: str = "/ip4/127.0.0.1/tcp/0",
        extra: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        program: str = PROGRAM,
    ) -> LocalNode:
        """Start a daemon on free loopback ports; the same name again is a restart on the same data directory."""
        arguments = ["--region", region, "--listen", listen, "--http", "127.0.0.1:0", *extra]
        if roles:
            arguments += ["--roles", roles]
        if rate:
            arguments += ["--max-tokens-per-second", str(rate)]
        for model in models:
            arguments += ["--model", model]
        secrets = {"TETHER_TICKET": ticket} if ticket else {}
        node = LocalNode(name, self.root / name, arguments, {**secrets, **(environ or {})}, program)
        self.nodes[name] = node
        return node

    def invite(self, node: LocalNode, **order: Any) -> str:
        return str(node.control.post("/invite", {"uses": 16, **order})["ticket"])

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to whoever is left after the time for draining."""
        for node in self.nodes.values():
            if node.process.poll() is None:
                node.terminate()
        for node in self.nodes.values():
            try:
                node.wait()
            except subprocess.TimeoutExpired:
                node.kill()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()


def until(condition: Callable[[], _Found], what: str, timeout_s: float = START_TIMEOUT_S) -> _Found:
    """Ask condition until it answers with something true. Raises TetherError naming what was waited for."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TetherError(INTERNAL, f"Waited {timeout_s:.0f} s in vain for {what}.")
        time.sleep(POLL_S)
