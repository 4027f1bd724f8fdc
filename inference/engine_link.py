"""The daemon's end of one engine process: commands out, reports in, each to the answer that it belongs to."""

from __future__ import annotations

import math
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final, NoReturn

import trio

from inference.engine import Tokens
from inference.engine_wire import (
    PREFIX,
    Alive,
    Cancel,
    Command,
    Counted,
    CountInputs,
    Embed,
    Embedded,
    Generate,
    Load,
    Loading,
    Produced,
    Refused,
    Report,
    Tokenize,
    Tokenized,
    frame,
    frame_length,
    read_report,
)
from p2p.errors import ENGINE_FAILED, TetherError

READ_BYTES: Final = 65_536
LAST_WORDS_BYTES: Final = 2_048
HANG_S: Final = 60.0
"""A process with answers to make says that it is alive each second; one step of the largest model takes a few."""


LOAD_SILENCE_S: Final = 180.0
"""A load says each percent of the file and each answer of its self-test; a slow disk may need a minute for either."""


class EngineLost(Exception):
    """The engine process ended; how it did and its last words on stderr are in the message.

    killed: by somebody, most likely the kernel for want of memory; the model is not to blame.
    """

    def __init__(self, epitaph: str, *, killed: bool) -> None:
        super().__init__(epitaph)
        self.killed = killed


class _Answer:
    """An answer's tokens as they come; those that wait together are read as one.

    What waits is bounded by the answer's max_tokens, so a slow reader needs no other limit.
    """

    def __init__(self) -> None:
        self._waiting: Produced | None = None
        self._failure: TetherError | None = None
        self._changed = trio.Event()
        self._read_to_end = False
        self.finished = False

    def put(self, produced: Produced) -> None:
        self._waiting = produced if self._waiting is None else self._waiting.joined(produced)
        self.finished = produced.finish is not None
        self._changed.set()

    def fail(self, failure: TetherError) -> None:
        self._failure = failure
        self._changed.set()

    def __aiter__(self) -> _Answer:
        return self

    async def __anext__(self) -> Tokens:
        if self._read_to_end:
            raise StopAsyncIteration
        await self._changed.wait()
        if (produced := self._waiting) is None:
            assert self._failure is not None
            raise self._failure
        self._waiting = None
        self._read_to_end = self.finished
        if self._failure is None:
            self._changed = trio.Event()
        return Tokens(
            produced.ids,
            produced.position,
            produced.text,
            produced.finish,
            produced.logprobs,
            produced.cached,
        )


class EngineLink:
    """One process, from its load to its end. All methods belong to one event loop; `serve` moves the bytes."""

    def __init__(self, process: trio.Process, *, hang_s: float = HANG_S) -> None:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self.process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._requests = count()
        self._answers: dict[int, _Answer] = {}
        self._counts: dict[int, _Asked] = {}
        # Unbounded, but every entry belongs to a request, and the worker bounds those.
        self._commands, self._to_write = trio.open_memory_channel[Command](math.inf)
        self._buffer = bytearray()
        self._last_words = bytearray()
        self._hang_s = hang_s
        self._hung = False
        self._heard_s = trio.current_time()

    async def load(self, load: Load, told: Callable[[float], None] = lambda _: None) -> Report:
        """Send the first command and wait for its end; told: how far it is, 0 to 1. Raises EngineLost."""
        report: Report | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_last_words)
            try:
                await self._stdin.send_all(frame(load))
                report = await self._loading(told)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            if report is None:
                await self.process.wait()
            nursery.cancel_scope.cancel()
        if report is None:
            raise self._lost()
        return report

    async def _loading(self, told: Callable[[float], None]) -> Report | None:
        while True:
            with trio.move_on_after(LOAD_SILENCE_S) as silence:
                report = await self._next_report()
            if silence.cancelled_caught:
                self._kill_hung()
                return None
            match report:
                case Loading(fraction):
                    told(fraction)
                case Alive():
                    pass
                case _:
                    return report

    async def serve(self) -> NoReturn:
        """Carry commands and reports until the process ends. Raises EngineLost; `fail_all` is then due."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_last_words)
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                while (report := await self._next_report()) is not None:
                    self._heard_s = trio.current_time()
                    self._deliver(report)
                await self.process.wait()
                nursery.cancel_scope.cancel()
        finally:
            await self.end()
        raise self._lost()

    async def end(self) -> None:
        """Kill the process and leave nothing of it behind. It holds no state that could be lost."""
        with trio.CancelScope(shield=True):
            self.process.kill()
            await self.process.wait()
            for pipe in (self._stdin, self._stdout, self._stderr):
                await pipe.aclose()

    def fail_all(self) -> None:
        """End what was under way. Only once nobody can find this link any more, or new requests would hang in it."""
        for answer in self._answers.values():
            answer.fail(TetherError(ENGINE_FAILED, "The engine's process died in the middle of the answer."))
        for counted in self._counts.values():
            counted.set(TetherError(ENGINE_FAILED, "The engine's process died."))

    async def tokenize(self, command: Callable[[int], Tokenize]) -> tuple[int, ...]:
        """Raises TetherError(ENGINE_FAILED), or what the engine refused the prompt with."""
        ids = await self._ask(command)
        assert isinstance(ids, tuple)
        return ids

    async def count_inputs(self, command: Callable[[int], CountInputs]) -> tuple[tuple[int, ...], ...]:
        """Raises TetherError as tokenize does."""
        counted = await self._ask(command)
        assert isinstance(counted, Counted)
        return counted.ids

    async def embed(self, command: Callable[[int], Embed]) -> tuple[bytes, ...]:
        """Raises TetherError as tokenize does."""
        embedded = await self._ask(command)
        assert isinstance(embedded, Embedded)
        return embedded.vectors

    async def _ask(self, command: Callable[[int], Tokenize | CountInputs | Embed]) -> _Outcome:
        request = next(self._requests)
        counted = self._counts[request] = _Asked()
        try:
            self._commands.send_nowait(command(request))
            await counted.done.wait()
        finally:
            del self._counts[request]
        if isinstance(counted.outcome, TetherError):
            raise counted.outcome
        return counted.outcome

    @contextmanager
    def answer(self, command: Callable[[int], Generate]) -> Iterator[AsyncIterator[Tokens]]:
        """Ask for an answer; leaving the context cancels it."""
        request = next(self._requests)
        if not self._answers:
            self._heard_s = trio.current_time()
        answer = self._answers[request] = _Answer()
        self._commands.send_nowait(command(request))
        try:
            yield answer
        finally:
            del self._answers[request]
            if not answer.finished:
                self._commands.send_nowait(Cancel(request))

    def _deliver(self, report: Report) -> None:
        match report:
            case Produced(request=request) if request in self._answers:
                self._answers[request].put(report)
            case Tokenized(request, ids) if request in self._counts:
                self._counts[request].set(ids)
            case Counted(request) | Embedded(request) if request in self._counts:
                self._counts[request].set(report)
            case Refused(request, error) if request in self._counts:
                self._counts[request].set(TetherError.from_wire(error))
            case Refused(request, error) if request in self._answers:
                self._answers[request].fail(TetherError.from_wire(error))
            case _:
                pass  # Of a request that was given up meanwhile.

    async def _write(self) -> None:
        async for command in self._to_write:
            try:
                await self._stdin.send_all(frame(command))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # The process is gone; the reader sees it too and says so.

    async def _watch(self) -> None:
        """Kill a process that has something to do and says nothing: the end of its pipe then ends `serve`."""
        while True:
            await trio.sleep(self._hang_s / 4)
            if self._overdue(trio.current_time() - self._hang_s):
                self._kill_hung()
                return

    def _overdue(self, before_s: float) -> bool:
        """Answers are watched by the batch's signs of life; counts, which another thread makes, one by one."""
        counts = any(counted.asked_s < before_s for counted in self._counts.values())
        return counts or bool(self._answers and self._heard_s < before_s)

    def _kill_hung(self) -> None:
        self._hung = True
        self.process.kill()

    async def _next_report(self) -> Report | None:
        """The next report, or None at the end of the pipe."""
        prefix = await self._read(PREFIX.size)
        body = await self._read(frame_length(prefix)) if prefix else b""
        return read_report(body) if body else None

    async def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = await self._stdout.receive_some(READ_BYTES)
            if not data:
                return b""
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _keep_last_words(self) -> None:
        async for data in self._stderr:
            self._last_words = (self._last_words + data)[-LAST_WORDS_BYTES:]

    def _lost(self) -> EngineLost:
        """Once the process has ended."""
        status = self.process.returncode
        assert status is not None
        ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        killed = status == -signal.SIGKILL
        if self._hung:
            return EngineLost("it hung", killed=True)
        if killed:
            return EngineLost(f"{ended}: the kernel does so when memory runs out", killed=True)
        lines = self._last_words.decode("utf-8", "replace").strip().splitlines()
        return EngineLost(ended + (f": {lines[-1][:300]}" if lines else ""), killed=False)


_Outcome = tuple[int, ...] | Counted | Embedded


class _Asked:
    """The outcome of one tokenize, or of what else has one."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.asked_s = trio.current_time()
        self.outcome: _Outcome | TetherError = ()

    def set(self, outcome: _Outcome | TetherError) -> None:
        self.outcome = outcome
        self.done.set()
