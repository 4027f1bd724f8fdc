"""Processes that are measured: each says hello, then obeys commands, in lines of JSON, until its input closes.

The runner keeps a `Process` for each side; a Python side calls `obey`, a JavaScript side `obey` of `peers/lines.mjs`.
Times are taken inside the side that waits for the answer, so that a line costs the figure nothing.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil
import structlog
import trio

from benchmarks.transport import npm

ROOT: Final = Path(__file__).parent.parent.parent
PEERS: Final = Path(__file__).parent / "peers"
HELLO_S: Final = 60.0
"""A start on a loaded machine: importing libp2p alone takes seconds there."""
LEAVE_S: Final = 10.0

Answer = Mapping[str, Any]
Command = Callable[..., Awaitable[Answer | None]]
"""Takes its arguments by name, all of them JSON."""
Side = Callable[..., Awaitable[None]]
"""What a process is: run by trio with the arguments of its command line."""


class ProcessFailed(RuntimeError):
    """A side died, or did not answer in time; what it wrote to stderr is in the message."""


class Process:
    """One side. Use as a context manager: leaving it ends the process."""

    def __init__(self, command: Sequence[str | Path], *, environ: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._child = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._unread = bytearray()
        self._hello: Answer | None = None

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def hello(self) -> Answer:
        """What the process said first, such as where it listens; waits for it."""
        if self._hello is None:
            self._hello = self._next(HELLO_S)
        return self._hello

    def ask(self, command: str, *, timeout_s: float = 120.0, **arguments: Any) -> Answer:
        """Have a command carried out. Raises ProcessFailed."""
        self.tell(command, **arguments)
        return self.answer(timeout_s)

    def tell(self, command: str, **arguments: Any) -> None:
        """Start a command, so that several processes work at a time; `answer` waits for it."""
        assert self.hello is not None
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError as error:
            raise self._failure("is gone") from error

    def answer(self, timeout_s: float = 120.0) -> Answer:
        """The answer to the oldest command that has none yet. Raises ProcessFailed."""
        answer = self._next(timeout_s)
        if "error" in answer:
            raise self._failure(f"answered {answer['error']}")
        return answer

    def cpu_s(self) -> float:
        """Processor time so far, of the process and its children."""
        whole = psutil.Process(self.pid)
        times = [one.cpu_times() for one in (whole, *whole.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))

    def rss_mb(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss / 1e6)

    def kill(self) -> None:
        """At once, as a machine that loses its power."""
        self._child.kill()
        self._child.wait()

    def close(self) -> None:
        """Close its input and wait; a side that does not leave is killed."""
        if self._child.stdin is not None and not self._child.stdin.closed:
            with suppress(BrokenPipeError):
                self._child.stdin.close()
        try:
            self._child.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        assert self._child.stdout is not None
        self._child.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self, timeout_s: float) -> Answer:
        assert self._child.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._failure(f"was silent for {timeout_s:.0f} s")
            data = os.read(self._child.stdout.fileno(), 65_536)
            if not data:
                raise self._failure("ended")
            self._unread += data
        line, _, rest = bytes(self._unread).partition(b"\n")
        self._unread[:] = rest
        answer: Answer = json.loads(line)
        return answer

    def _failure(self, what: str) -> ProcessFailed:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")[-4_000:]
        return ProcessFailed(f"{self._child.args!r} {what}:\n{said}")


def python(
    module: str, *arguments: str, environ: Mapping[str, str] | None = None, within: Sequence[str] = ()
) -> Process:
    """Start a side of ours, such as benchmarks.transport.bulk. within: what stands before its command."""
    return Process([*within, sys.executable, "-m", module, *arguments], environ=environ)


def node(script: str, *arguments: str) -> Process:
    """Start a JavaScript side from `peers/`. Raises npm.Missing where Node, npm or the registry is out of reach."""
    return Process([npm.NODE, npm.install(PEERS) / script, *arguments])


async def obey(hello: Answer, commands: Mapping[str, Command]) -> None:
    """The other end: say hello, then carry out commands one after the other, until the input closes."""
    log_to_stderr()
    _say(hello)
    unread = bytearray()
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as lines:
        while data := await lines.receive_some():
            unread += data
            while b"\n" in unread:
                line, _, rest = bytes(unread).partition(b"\n")
                unread[:] = rest
                arguments = json.loads(line)
                _say(await commands[arguments.pop("command")](**arguments) or {})


def log_to_stderr() -> None:
    """A side's stdout is for answers; one that logs before it obeys does this first."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _say(answer: Answer) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
