"""An OpenAI-compatible server that somebody already runs (vLLM, SGLang, Ollama, llama-server …) as an `Engine`.

What is said is in `openai_wire.py` and `openai_vectors.py`, what positions are in `openai_text.py`. Here is the
connection: one for each answer, closed when the answer is left, which is how these servers hear of a cancellation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx2
import structlog
import trio

from inference.embeddings import FLOAT_BYTES
from inference.engine import EngineInfo, Generation, Input, Prompt, Tokens
from inference.offer import Told
from inference.openai_text import EMPTY, pieces_of, text_of
from inference.openai_vectors import PROBE, check_inputs, read_vectors, shares, vectors_body
from inference.openai_wire import (
    Lines,
    Reading,
    Server,
    count_body,
    error_of,
    estimate,
    path_of,
    read_count,
    read_models,
    request_body,
)
from inference.text import TextStream
from p2p.errors import CONTEXT_EXCEEDED, ENGINE_FAILED, TetherError

DEFAULT_SLOTS: Final = 8
SILENCE_S: Final = 60.0
"""As long as a llama.cpp of ours may be silent before it counts as hung."""
TIMEOUTS: Final = httpx2.Timeout(10.0, read=SILENCE_S)
ASKED_EVERY_S: Final = 5.0
"""How often a server is asked whether it is there."""
ANSWER_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 4 << 20
"""Of a list of models or a count of tokens."""
MAX_ERROR_BYTES: Final = 4_096

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """url: with its path, such as http://127.0.0.1:8000/v1; key: "" for none, never shown; embeds: it makes vectors."""

    url: str
    model: str
    key: str = ""
    slots: int = DEFAULT_SLOTS
    embeds: bool = False

    def __repr__(self) -> str:
        return f"ServerSettings({self.url!r}, {self.model!r})"


@asynccontextmanager
async def open_server(settings: ServerSettings, told: Told = lambda _: None) -> AsyncIterator[OpenAiEngine]:
    """Wait for the server and its model, and watch it until the context ends; while it is away, nothing is served."""
    headers = {"authorization": f"Bearer {settings.key}"} if settings.key else {}
    limits = httpx2.Limits(max_connections=settings.slots + 2)
    async with httpx2.AsyncClient(
        headers=headers, timeout=TIMEOUTS, follow_redirects=False, trust_env=False, limits=limits
    ) as client:
        connection = Connection(client, settings)
        server = await connection.wait(told)
        engine = OpenAiEngine(connection, server, settings.slots)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.watch)
            yield engine
            nursery.cancel_scope.cancel()


class Connection:
    """Requests to one server, each bounded in time and size."""

    def __init__(self, client: httpx2.AsyncClient, settings: ServerSettings) -> None:
        self._client = client
        self.settings = settings
        self._dimensions = 0

    async def wait(self, told: Told) -> Server:
        """Until the server is there and has the model; says why it is waited for, when that changes."""
        said = ""
        while True:
            try:
                return await self.look()
            except TetherError as error:
                if error.detail != said:
                    said = error.detail
                    url, model = self.settings.url, self.settings.model
                    log.warning("server_waited_for", url=url, model=model, cause=said)
                told(0.0)
            await trio.sleep(ASKED_EVERY_S)

    async def look(self) -> Server:
        """Raises TetherError(ENGINE_FAILED | CAPACITY …)."""
        server = read_models(await self._whole("GET", f"{self.settings.url}/models"), self.settings.model)
        if self.settings.embeds and not self._dimensions:
            [vector] = await self.embed((PROBE,))
            self._dimensions = len(vector) // FLOAT_BYTES
        return replace(server, embeds=self._dimensions)

    async def embed(self, inputs: tuple[Input, ...]) -> tuple[bytes, ...]:
        """Raises TetherError(ENGINE_FAILED | CAPACITY …)."""
        body = vectors_body(self.settings.model, inputs)
        said = await self._whole("POST", f"{self.settings.url}/embeddings", within_s=SILENCE_S, json=body)
        return read_vectors(said, len(inputs), self._dimensions)

    async def count(self, server: Server, prompt: Prompt) -> int:
        if not server.counter:
            return estimate(prompt)
        url = self.settings.url.removesuffix("/v1") + server.counter
        try:
            return read_count(server, prompt, await self._whole("POST", url, json=count_body(server, prompt)))
        except TetherError:
            return estimate(prompt)

    async def _whole(self, method: str, url: str, within_s: float = ANSWER_S, **more: Any) -> bytes:
        with trio.move_on_after(within_s):
            async with self._open(method, url, **more) as answer:
                body = bytearray()
                async for data in answer.aiter_bytes():
                    body += data
                    if len(body) > MAX_ANSWER_BYTES:
                        raise TetherError(ENGINE_FAILED, "The server says too much.")
                return bytes(body)
        raise TetherError(ENGINE_FAILED, f"The server took longer than {within_s:.0f} s.")

    @asynccontextmanager
    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The data of an answer's events. Leaving the context closes the connection, and so cancels it there."""
        async with self._open("POST", self.settings.url + path, json=body) as answer:
            yield _events(answer)

    @asynccontextmanager
    async def _open(self, method: str, url: str, **more: Any) -> AsyncIterator[httpx2.Response]:
        try:
            async with self._client.stream(method, url, **more) as answer:
                if answer.status_code != 200:
                    raise error_of(answer.status_code, await _beginning(answer), _retry_after(answer))
                yield answer
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise TetherError(ENGINE_FAILED, f"The server is away: {type(error).__name__}.") from error


class OpenAiEngine:
    """One model of one server."""

    def __init__(self, connection: Connection, server: Server, slots: int) -> None:
        self._connection = connection
        self._server = server
        self._info = EngineInfo(server.context_tokens, slots, f"text:{server.model}", embeds=server.embeds)
        self._under_way = 0

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def watch(self) -> None:
        """Ask now and then whether the server is there, and let `info.serving` say so.

        Not while it answers: some servers interrupt an answer for the next request, whatever that is.
        """
        while True:
            await trio.sleep(ASKED_EVERY_S)
            if self._under_way:
                continue
            try:
                self._server = await self._connection.look()
            except TetherError as error:
                self._serve(False, error.detail)
            else:
                self._serve(True, "")

    def _serve(self, serving: bool, cause: str) -> None:
        if serving != self._info.serving:
            self._info = replace(self._info, serving=serving)
            model = self._server.model
            if serving:
                log.info("server_back", model=model)
            else:
                log.warning("server_away", model=model, cause=cause)

    async def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        """As many ids as the server counts or we estimate; what they are, only the server knows."""
        return (0,) * await self._connection.count(self._server, prompt)

    async def count_inputs(self, inputs: tuple[str | tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        """As `tokenize`: all texts are counted in one piece, and each has its share."""
        check_inputs(self._server, inputs)
        text = "\n".join(one for one in inputs if isinstance(one, str))
        total = await self._connection.count(self._server, Prompt(text=text)) if text else 0
        return tuple((0,) * share for share in shares(total, inputs))

    async def embed(self, inputs: tuple[Input, ...]) -> tuple[bytes, ...]:
        """As `Embedder`."""
        self._under_way += 1
        try:
            return await self._connection.embed(inputs)
        finally:
            self._under_way -= 1

    @asynccontextmanager
    async def generate(self, asked: Generation) -> AsyncIterator[AsyncIterator[Tokens]]:
        wanted, context = len(asked.prompt) + asked.max_tokens, self._info.context_tokens
        if wanted > context:
            detail = f"Prompt and answer need {wanted} tokens; the model's context is {context}."
            raise TetherError(CONTEXT_EXCEEDED, detail)
        assert asked.source is not None, "an attempt says what its prompt was made of"
        begun = text_of(asked.resume)
        left = len(asked.resume) < asked.max_tokens
        goes_on = bool(begun) and self._server.continues(asked.source)
        body = request_body(self._server, asked, begun if goes_on else "")
        if not left:
            yield _full(asked)
            return
        self._under_way += 1
        try:
            async with self._connection.stream(path_of(asked.source), body) as events:
                yield _answer(asked, events, begun, goes_on=goes_on)
        finally:
            self._under_way -= 1


async def _full(asked: Generation) -> AsyncIterator[Tokens]:
    yield Tokens((), len(asked.resume), "", "length")


async def _answer(
    asked: Generation, events: AsyncIterator[bytes], begun: str, *, goes_on: bool
) -> AsyncIterator[Tokens]:
    """Tokens of a server's events. begun: the text before; not goes_on: the server says it once more, to be skipped."""
    reading, shown = Reading(), TextStream(asked.sampling.stop)
    shown.feed(begun.encode())
    position, before = len(asked.resume), "" if goes_on else begun

    def taken(text: str) -> Tokens | None:
        """As many pieces of a text as there is room for, and what of them may be shown."""
        nonlocal position
        ids = pieces_of(text)[: asked.max_tokens - position]
        if not ids:
            return None
        tokens = Tokens(ids, position, shown.feed(text_of(ids).encode()))
        position += len(ids)
        return tokens

    async for data in events:
        text, before = _after(before, reading.text(data))
        if tokens := taken(text):
            yield tokens
        if reading.done or shown.stopped or position >= asked.max_tokens:
            break
    if before and not shown.stopped:
        raise TetherError(ENGINE_FAILED, "The server ended before the text that was already sent.")
    if not (reading.finish or shown.stopped or position >= asked.max_tokens):
        raise TetherError(ENGINE_FAILED, "The server ended an answer without an end.")
    if (calls := reading.calls()) and (tokens := taken(calls)):
        yield tokens
    said = (reading.completion_tokens or 0) + (len(asked.resume) if goes_on else 0)
    silent = max(0, min(said, asked.max_tokens) - position)
    stopped = shown.stopped or reading.finish == "stop"
    yield Tokens((EMPTY,) * silent, position, shown.close(), "stop" if stopped else "length")


def _after(before: str, text: str) -> tuple[str, str]:
    """What of a text comes after what was sent already, and what of that is still due. Raises ENGINE_FAILED."""
    size = min(len(before), len(text))
    if before[:size] != text[:size]:
        detail = "The server cannot go on with an answer, and says another one than was begun."
        raise TetherError(ENGINE_FAILED, detail)
    return text[size:], before[size:]


async def _events(answer: httpx2.Response) -> AsyncIterator[bytes]:
    lines = Lines()
    async for data in answer.aiter_bytes():
        for event in lines.feed(data):
            yield event


async def _beginning(answer: httpx2.Response) -> bytes:
    body = bytearray()
    with trio.move_on_after(ANSWER_S):
        async for data in answer.aiter_bytes():
            body += data
            if len(body) >= MAX_ERROR_BYTES:
                break
    return bytes(body[:MAX_ERROR_BYTES])


def _retry_after(answer: httpx2.Response) -> float | None:
    said = answer.headers.get("retry-after", "")
    return float(said) if said.isascii() and said.isdecimal() and len(said) < 6 else None
