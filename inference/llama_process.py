"""The engine process: `python -m inference.llama_process`, commands on stdin, reports on stdout (engine_wire.py).

main thread      steps the batch; the only one that touches the context
reader thread    reads commands, tokenizes at once; at the end of stdin the parent is gone, and so is this process
writer thread    writes reports, tokens in parcels (outgoing.py)
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from inference.batch import Batch
from inference.chat import ChatTemplate
from inference.containment import die_before_parent, forbid_core_dumps, leave_signals_to_parent
from inference.embedding_process import EmbeddingContext, embed_for_ever
from inference.engine_wire import (
    PREFIX,
    Alive,
    Cancel,
    Command,
    CountInputs,
    Embed,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    Refused,
    Report,
    Tokenize,
    Tokenized,
    frame,
    frame_length,
    read_command,
)
from inference.forward import Forward, LoadError
from inference.native import Context, Model, Version, has_gpu, start, system_info
from inference.outgoing import PARCELS_PER_S, Outgoing
from inference.pace import Pace
from inference.recipe import FAST_CHUNK, build_tag
from inference.self_test import is_exact
from inference.speed import prefill_chunk, tokens_per_second
from p2p.errors import FIELD_INVALID, TetherError
from p2p.garbage import collect_rarely

PARENT_GONE: Final = 0
THREAD_DIED: Final = 1
SELF_TEST_SEED: Final = 2026
"""A fixed one: whether a worker is exact must not be a matter of luck."""
ALIVE_S: Final = 1.0


class Outbox:
    """Reports from all threads to the writer's."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._outgoing = Outgoing()
        self._changed = threading.Condition()

    def begin(self, *, on_gpu: bool) -> None:
        """From now on answers are made."""
        if not on_gpu:
            self._outgoing.parcels_per_s = PARCELS_PER_S * len(os.sched_getaffinity(0))

    def put(self, *reports: Report) -> None:
        with self._changed:
            due_s = self._outgoing.due_s
            for report in reports:
                self._outgoing.add(report)
            if self._outgoing.due_s < due_s:
                self._changed.notify()

    def write_for_ever(self) -> None:
        while True:
            self._pipe.write(b"".join(map(frame, self._due())))
            self._pipe.flush()

    def _due(self) -> list[Report]:
        """Wait until something has to leave."""
        with self._changed:
            while (wait_s := self._outgoing.due_s - time.monotonic()) > 0:
                self._changed.wait(None if wait_s == math.inf else wait_s)
            return self._outgoing.take(time.monotonic())


class Telling:
    """How a load goes on, in whole percents of the file at most."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._percent = -1

    def read(self, fraction: float) -> None:
        if (percent := int(fraction * 100)) > self._percent:
            self._percent = percent
            self._outbox.put(Loading(fraction))

    def alive(self) -> None:
        self._outbox.put(Alive())


class Inbox:
    """Commands for the batch, from the reader to the main thread."""

    def __init__(self) -> None:
        self._waiting: deque[Generate | Cancel] = deque()
        self._changed = threading.Condition()

    def put(self, command: Generate | Cancel) -> None:
        with self._changed:
            self._waiting.append(command)
            self._changed.notify()

    def take(self, wait_s: float | None) -> list[Generate | Cancel]:
        """What has come; waits at most wait_s for the first (None: for ever, 0: not at all)."""
        with self._changed:
            if not self._waiting and wait_s != 0:
                self._changed.wait(wait_s)
            commands = list(self._waiting)
            self._waiting.clear()
            return commands


@dataclass(frozen=True, slots=True)
class Ready:
    """What a load brought. model: the vocabulary; engine, features: for the build tag."""

    model: Model
    context: Forward
    engine: str
    features: str
    on_gpu: bool


def load_llama(load: Load, told: Telling) -> Ready:
    """Raises LoadError."""
    model = Model(
        Path(load.path), plain_kernels=load.plain_kernels, gpu_layers=load.gpu_layers, told=told.read
    )
    context = Context(
        model,
        slots=load.slots,
        context_tokens=load.context_tokens,
        step_tokens=max(FAST_CHUNK, load.slots),
        threads=load.threads,
    )
    return Ready(model, context, f"llama.cpp{Version}", system_info(), load.gpu_layers > 0 and has_gpu())


def main(load_model: Callable[[Load, Telling], Ready] = load_llama) -> None:
    leave_signals_to_parent()
    forbid_core_dumps()
    die_before_parent()
    threading.excepthook = _end_with_thread
    commands, outbox = sys.stdin.buffer, Outbox(sys.stdout.buffer)
    threading.Thread(target=outbox.write_for_ever, daemon=True).start()
    load = _next_command(commands)
    assert isinstance(load, Load), "the first command loads the model"
    start()
    try:
        told = Telling(outbox)
        if load.pooling:
            return _embed(load, commands, outbox, told)
        ready = load_model(load, told)
        model, context = ready.model, ready.context
        template = ChatTemplate(model.chat_template) if model.chat_template else None
    except LoadError as error:
        outbox.put(LoadFailed(str(error)))
        return _wait_for_parent(commands)
    except TetherError as error:
        outbox.put(LoadFailed(error.detail))
        return _wait_for_parent(commands)

    def batch(limit: float | None, chunk: int) -> Batch:
        return Batch(model, context, Pace(limit, time.monotonic()), slots=load.slots, chunk=chunk)

    fresh = partial(batch, None, FAST_CHUNK)
    exact = load.exact and (load.tested or is_exact(model, fresh, SELF_TEST_SEED, told.alive))
    speed = tokens_per_second(context)
    made = batch(load.max_tokens_per_second, prefill_chunk(context, speed, load.context_tokens))
    tag = build_tag(load.model_sha256, ready.engine, ready.features, exact=exact)
    outbox.begin(on_gpu=ready.on_gpu)
    outbox.put(Loaded(load.context_tokens, tag, exact, speed, ready.on_gpu))
    collect_rarely()
    inbox = Inbox()
    reader = threading.Thread(
        target=_read_for_ever, args=(commands, inbox, outbox, model, template, made.give_up), daemon=True
    )
    reader.start()
    _step_for_ever(made, inbox, outbox)


def _embed(load: Load, commands: BinaryIO, outbox: Outbox, told: Telling) -> None:
    """Raises LoadError."""
    model = Model(Path(load.path), gpu_layers=load.gpu_layers, told=told.read)
    context = EmbeddingContext(model, load)
    tag = build_tag(load.model_sha256, f"llama.cpp{Version}", system_info(), exact=False)
    outbox.put(Loaded(load.context_tokens, tag, False, on_gpu=load.gpu_layers > 0 and has_gpu()))
    embed_for_ever(model, context, partial(_next_command, commands), outbox.put)


def _step_for_ever(batch: Batch, inbox: Inbox, outbox: Outbox) -> None:
    said_s = time.monotonic()
    while True:
        if time.monotonic() >= said_s + ALIVE_S:
            said_s = time.monotonic()
            outbox.put(Alive())
        for command in inbox.take(None if batch.idle else min(ALIVE_S, batch.wait_s())):
            match command:
                case Generate(request):
                    try:
                        outbox.put(*batch.submit(command))
                    except TetherError as error:
                        outbox.put(Refused(request, error.to_wire()))
                case Cancel(request):
                    batch.leave(request)
        outbox.put(*batch.step(time.monotonic()))


def _read_for_ever(
    commands: BinaryIO,
    inbox: Inbox,
    outbox: Outbox,
    model: Model,
    template: ChatTemplate | None,
    give_up: Callable[[int], None],
) -> None:
    while True:
        command = _next_command(commands)
        match command:
            case Tokenize():
                outbox.put(_tokenize(command, model, template))
            case Generate():
                inbox.put(command)
            case Cancel(request):
                inbox.put(command)
                give_up(request)
            case Load() | CountInputs() | Embed():
                raise AssertionError(f"{type(command).__name__} is not for an engine that runs")


def _tokenize(command: Tokenize, model: Model, template: ChatTemplate | None) -> Report:
    try:
        ids = _encode(command, model, template)
    except TetherError as error:
        return Refused(command.request, error.to_wire())
    begin = model.begins_with
    if begin is not None and ids[:1] != [begin]:
        ids.insert(0, begin)
    return Tokenized(command.request, tuple(ids))


def _encode(command: Tokenize, model: Model, template: ChatTemplate | None) -> list[int]:
    if command.messages is None:
        # A text prompt is its author's whole: there is no template in it whose control tokens could be forged.
        return model.encode(command.text or "", special=True)
    if template is None:
        detail = "This model has no chat template: send its prompt to /v1/completions."
        raise TetherError(FIELD_INVALID, detail, field="messages")
    return template.encode(command.messages, model, command.tools)


def _next_command(commands: BinaryIO) -> Command:
    """Read one command. At the end of the pipe the process ends at once, whatever its other threads do.

    Not by PR_SET_PDEATHSIG, which fires when the parent's *thread* that started us ends, and trio starts processes in
    a thread that it soon gives up.
    """
    prefix = commands.read(PREFIX.size)
    body = commands.read(frame_length(prefix)) if len(prefix) == PREFIX.size else b""
    if not body:
        os._exit(PARENT_GONE)
    return read_command(body)


def _end_with_thread(failure: threading.ExceptHookArgs) -> None:
    """A process with a dead thread would hang: it ends, and is started anew."""
    sys.__excepthook__(failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    os._exit(THREAD_DIED)


def _wait_for_parent(commands: BinaryIO) -> None:
    while True:
        _next_command(commands)


if __name__ == "__main__":
    main()
