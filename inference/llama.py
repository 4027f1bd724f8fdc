"""llama.cpp as an `Engine`: a process of its own that is started, watched and, if it dies, started anew.

A failed GGML assertion kills the process that it happens in; that must not be the daemon. The answers that were being
made end with ENGINE_FAILED and go on elsewhere, or here once the next process has loaded the model.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Final

import structlog
import trio
from msgspec.structs import replace

from inference.engine import EngineInfo, Generation, Input, Prompt, Tokens
from inference.engine_link import EngineLink, EngineLost
from inference.engine_wire import CountInputs, Embed, Generate, Load, Loaded, LoadFailed, Tokenize
from inference.gguf import GgufHeader, read_header
from inference.manifest import hash_file
from inference.offer import Told
from inference.quarantine import DEATHS, Quarantine, digest_of, digest_of_inputs, digest_of_prompt
from inference.recipe import EXACT_TYPES, may_be_exact
from inference.restarts import LAST_PAUSE_S, Restarts
from inference.sizing import LlamaSettings, size_engine
from inference.survey import survey
from p2p.errors import CONTEXT_EXCEEDED, ENGINE_FAILED, INPUT_QUARANTINED, MODEL_INVALID, TetherError

__all__ = ["LlamaEngine", "LlamaSettings", "open_llama"]

RESTART_PATIENCE_S: Final = 1.5
"""How long a request waits for a restarting engine: below the 2 s after which its gateway looks elsewhere."""

SPINS: Final = "1000"
"""How often a thread of libgomp looks for the others before it sleeps. By default it looks 300,000 times, and where
other work wants the cores too, engines lose most of their speed to that waiting (measured, docs/engines.md)."""
SPIN_VARIABLES: Final = frozenset({"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"})
"""If the owner has set one, his word counts."""

_DEFAULTS: Final = LlamaSettings()


@dataclass(frozen=True, slots=True)
class Program:
    """What runs in the process. read: checks a model and says what it is; digest: of its content, hex."""

    name: str
    module: str
    read: Callable[[Path], GgufHeader]
    digest: Callable[[Path], Awaitable[str]]


async def _digest(path: Path) -> str:
    return (await hash_file(path))[0]


LLAMA: Final = Program("llama.cpp", "inference.llama_process", read_header, _digest)

log: Final = structlog.get_logger()


@asynccontextmanager
async def open_llama(
    path: Path,
    settings: LlamaSettings = _DEFAULTS,
    *,
    told: Told = lambda _: None,
    quarantine: Quarantine | None = None,
    verify: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    program: Program = LLAMA,
) -> AsyncIterator[LlamaEngine]:
    """Check, load and serve a model file until the context ends. Raises TetherError(MODEL_INVALID | ENGINE_FAILED).

    quarantine: what earlier engines of the model died of; verify: goes before each load and raises if the file is not
    to be loaded. What the body raises arrives in an ExceptionGroup, as from
    any trio nursery.
    """
    await verify()
    header = await trio.to_thread.run_sync(program.read, path)
    load = await _load_command(path, header, settings, program)
    link = EngineLink(await _start_process(program), hang_s=settings.hang_s)
    info = await _load(link, path, load, program, told)
    if settings.exact == "on" and not info.exact and not info.embeds:
        await link.end()
        detail = f"{path} is not exact on this machine, as --exact on demands: it failed the self-test."
        raise TetherError(MODEL_INVALID, detail, field="model")
    engine = LlamaEngine(
        path,
        load,
        link,
        info,
        hang_s=settings.hang_s,
        quarantine=Quarantine() if quarantine is None else quarantine,
        verify=verify,
        program=program,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.supervise, link)
        yield engine
        nursery.cancel_scope.cancel()


class LlamaEngine:
    """One model, served by one process at a time."""

    def __init__(
        self,
        path: Path,
        load: Load,
        link: EngineLink,
        info: EngineInfo,
        *,
        hang_s: float,
        quarantine: Quarantine,
        verify: Callable[[], Awaitable[None]],
        program: Program = LLAMA,
    ) -> None:
        self._path = path
        # What a self-test found is true of the next process too: the same file on the same machine.
        self._load = replace(load, exact=info.exact, tested=True)
        self._hang_s = hang_s
        self._quarantine = quarantine
        self._verify = verify
        self._program = program
        self._under_way: list[bytes] = []
        self._up = trio.Event()
        self._link: EngineLink | None = None
        self._take_up(link, info)

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def process_id(self) -> int | None:
        """Of the running engine process; None while there is none."""
        return self._link.process.pid if self._link is not None else None

    async def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        """Render and count. Raises TetherError(FIELD_INVALID | ENGINE_FAILED | INPUT_QUARANTINED)."""
        with self._accused(digest_of_prompt(prompt)):
            link = await self._running()
            return await link.tokenize(
                lambda request: Tokenize(request, prompt.messages, prompt.text, prompt.tools)
            )

    def generate(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Tokens]]:
        """Open one answer. Raises TetherError(CONTEXT_EXCEEDED | ENGINE_FAILED | INPUT_QUARANTINED)."""
        return self._generate(generation)

    async def count_inputs(self, inputs: tuple[str | tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        """As `Embedder`."""
        with self._accused(digest_of_inputs(inputs)):
            link = await self._running()
            return await link.count_inputs(lambda request: CountInputs(request, inputs))

    async def embed(self, inputs: tuple[Input, ...]) -> tuple[bytes, ...]:
        """As `Embedder`."""
        ids = tuple(one.ids for one in inputs)
        with self._accused(digest_of_inputs(ids)):
            link = await self._running()
            return await link.embed(lambda request: Embed(request, ids))

    @asynccontextmanager
    async def _generate(self, asked: Generation) -> AsyncIterator[AsyncIterator[Tokens]]:
        wanted, context = len(asked.prompt) + asked.max_tokens, self._info.context_tokens
        if wanted > context or not asked.prompt:
            detail = f"Prompt and answer need {wanted} tokens ({len(asked.prompt)} + {asked.max_tokens})"
            raise TetherError(CONTEXT_EXCEEDED, f"{detail}; the model's context here is {context}.")
        with self._accused(digest_of(asked)):
            link = await self._running()
            with link.answer(
                lambda request: Generate(
                    request,
                    asked.prompt,
                    asked.resume,
                    asked.max_tokens,
                    asked.sampling,
                    asked.scope,
                    asked.exact and self._info.exact,
                )
            ) as tokens:
                yield tokens

    @contextmanager
    def _accused(self, digest: bytes) -> Iterator[None]:
        """An input is under way: if the engine dies now, it may be to blame. Raises INPUT_QUARANTINED."""
        if digest in self._quarantine:
            detail = f"The engine died {DEATHS} times while it had this request."
            raise TetherError(INPUT_QUARANTINED, detail)
        self._under_way.append(digest)
        try:
            yield
            self._quarantine.ended_well(digest)
        finally:
            self._under_way.remove(digest)

    async def _running(self) -> EngineLink:
        with trio.move_on_after(RESTART_PATIENCE_S):
            await self._up.wait()
        if self._link is None:
            raise TetherError(ENGINE_FAILED, "The engine is starting anew.", retry_after_s=LAST_PAUSE_S)
        return self._link

    async def supervise(self, link: EngineLink) -> None:
        """Serve over a loaded process; start another whenever it dies, with growing pauses while they die young."""
        restarts = Restarts()
        while True:
            started_s = trio.current_time()
            try:
                await link.serve()
            except EngineLost as lost:
                log.warning("engine_died", pid=link.process.pid, cause=str(lost))
                self._quarantine.died_with(self._under_way)
            finally:
                self._link = None
                self._up = trio.Event()
                link.fail_all()
            link = await self._restarted(restarts, trio.current_time() - started_s)

    async def _restarted(self, restarts: Restarts, lived_s: float) -> EngineLink:
        while True:
            await trio.sleep(restarts.pause_s(lived_s))
            lived_s = 0.0
            try:
                await self._verify()
                link = EngineLink(await _start_process(self._program), hang_s=self._hang_s)
                self._take_up(link, await _load(link, self._path, self._load, self._program))
            except TetherError as error:
                log.warning("engine_start_failed", cause=error.detail)
            else:
                return link

    def _take_up(self, link: EngineLink, info: EngineInfo) -> None:
        self._link, self._info = link, info
        self._up.set()
        log.info("engine_started", pid=link.process.pid, build_tag=info.build_tag)


async def _load_command(path: Path, header: GgufHeader, settings: LlamaSettings, program: Program) -> Load:
    sizes = size_engine(header, settings, await trio.to_thread.run_sync(survey))
    sha256 = settings.model_sha256 or await program.digest(path)
    return Load(
        path=str(path),
        slots=sizes.slots,
        context_tokens=sizes.context_tokens,
        threads=sizes.threads,
        exact=may_be_exact(header.types, settings.exact),
        plain_kernels=settings.exact == "on" and not header.types <= EXACT_TYPES,
        max_tokens_per_second=settings.max_tokens_per_second,
        model_sha256=sha256,
        gpu_layers=sizes.gpu_layers,
        pooling=header.pooling if header.embeds else 0,
        dimensions=header.embeds,
    )


async def _start_process(program: Program) -> trio.Process:
    """Start it from the same code as this, wherever the daemon was started."""
    root = str(Path(__file__).parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", "")))),
        # After a failed assertion ggml would start a debugger to print a backtrace.
        "GGML_NO_BACKTRACE": "1",
    }
    if not environment.keys() & SPIN_VARIABLES:
        environment["GOMP_SPINCOUNT"] = SPINS
    command = [sys.executable, "-m", program.module]
    return await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment)


async def _load(
    link: EngineLink, path: Path, load: Load, program: Program, told: Told = lambda _: None
) -> EngineInfo:
    """Let a fresh process load the model. Raises TetherError(MODEL_INVALID | ENGINE_FAILED), and it is gone then."""
    try:
        match await link.load(load, told):
            case Loaded(context_tokens, build_tag, exact, speed, on_gpu):
                limit = load.max_tokens_per_second or math.inf
                speed = min(speed, limit)
                return EngineInfo(
                    context_tokens, load.slots, build_tag, exact, speed, on_gpu, embeds=load.dimensions
                )
            case LoadFailed(reason):
                raise TetherError(
                    MODEL_INVALID, f"{program.name} cannot load {path}: {reason}.", field="model"
                )
            case other:
                raise AssertionError(f"the engine answered its load with {type(other).__name__}")
    except EngineLost as lost:
        await link.end()
        if lost.killed:
            detail = f"The engine was killed while it loaded {path} ({lost})."
            raise TetherError(ENGINE_FAILED, detail, field="model") from lost
        detail = f"{program.name} died while it loaded {path} ({lost})."
        raise TetherError(MODEL_INVALID, detail, field="model") from lost
    except BaseException:
        await link.end()
        raise
