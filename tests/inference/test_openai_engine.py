"""An engine over a server: a real one that others wrote, and one that does what no server should."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from inference.engine import Generation, Input, Prompt, Tokens
from inference.llama import LlamaSettings, open_llama
from inference.openai_engine import (
    ASKED_EVERY_S,
    SILENCE_S,
    Connection,
    OpenAiEngine,
    ServerSettings,
    open_server,
)
from inference.openai_text import pieces_of, text_of
from inference.openai_wire import Server
from p2p.content import ChatMessage, Sampling
from p2p.errors import CAPACITY, ENGINE_FAILED, FIELD_INVALID, Code, TetherError
from tests.servers.embedding_model import DIMENSIONS, embedding_model
from tests.servers.openai_server import NAME, llama_cpp_server

CHAT = Prompt((ChatMessage("user", "What is Tether?"),))
GREEDY = Sampling(temperature=0.0, seed=7)


async def ask(
    engine: OpenAiEngine,
    prompt: Prompt = CHAT,
    resume: tuple[int, ...] = (),
    max_tokens: int = 40,
    within_s: float = 30,
    **more: object,
) -> list[Tokens]:
    sampling = Sampling(temperature=0.0, seed=7, **more)  # type: ignore[arg-type]
    ids = await engine.tokenize(prompt)
    asked = Generation(ids, max_tokens, sampling, resume, source=prompt)
    with trio.fail_after(within_s):
        async with engine.generate(asked) as answer:
            return [tokens async for tokens in answer]


def whole(answer: list[Tokens]) -> tuple[str, tuple[int, ...]]:
    return "".join(one.text for one in answer), tuple(token for one in answer for token in one.ids)


async def test_a_real_server_answers_resumes_stops_and_can_be_left() -> None:
    with llama_cpp_server() as url:
        async with open_server(ServerSettings(url, NAME)) as engine:
            answer = await ask(engine)
            text, ids = whole(answer)
            assert text and text_of(ids) == text and answer[-1].finish in ("stop", "length")
            for cut in (1, len(pieces_of(text)) // 2):
                rest = await ask(engine, resume=ids[:cut])
                assert rest[0].position == cut
                assert text_of(ids[:cut]) + whole(rest)[0] == text
            stop = text[6:10]
            stopped = await ask(engine, stop=(stop,))
            assert (whole(stopped)[0], stopped[-1].finish) == (text[: text.find(stop)], "stop")
            short = await ask(engine, max_tokens=3)
            assert (len(whole(short)[1]), short[-1].finish) == (3, "length")
            story = Prompt(text="Once upon a time")
            _, told_ids = whole(await ask(engine, story))
            rest = await ask(engine, story, resume=told_ids[:2])
            assert text_of(told_ids[:2]) + whole(rest)[0]
            async with engine.generate(Generation((0,), 400, GREEDY, source=CHAT)) as left:
                await anext(left)
            assert whole(await ask(engine))[0] == text
            with pytest.raises(TetherError) as caught:
                await ask(engine, logprobs=2)
            assert caught.value.field == "logprobs"


async def test_a_real_server_makes_vectors(tmp_path: Path) -> None:
    model = embedding_model(tmp_path / "embedder.gguf")
    texts = ("Once upon a time", "What is Tether?", "a")
    with llama_cpp_server(embeds=model) as url:
        async with open_server(ServerSettings(url, NAME, embeds=True)) as engine:
            assert engine.info.embeds == DIMENSIONS
            counted = await engine.count_inputs(texts)
            theirs = await engine.embed(tuple(map(Input, texts, counted)))
            with pytest.raises(TetherError) as caught:
                await engine.count_inputs(((5, 6, 7),))
            assert caught.value.field == "input"
    async with open_llama(model, LlamaSettings(slots=4, threads=1, context_tokens=512)) as engine:
        ids = await engine.count_inputs(texts)
        ours = await engine.embed(tuple(map(Input, texts, ids)))
    for one, other in zip(theirs, ours, strict=True):
        pairs = zip(
            struct.unpack(f"<{DIMENSIONS}f", one), struct.unpack(f"<{DIMENSIONS}f", other), strict=True
        )
        assert sum(a * b for a, b in pairs) > 0.999
    assert abs(sum(map(len, counted)) - sum(map(len, ids))) <= 2 * len(texts)


Handler = Callable[[bytes, trio.SocketStream], Awaitable[None]]
MODELS = json.dumps({"data": [{"id": "m"}]}).encode()


def plain(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{more}connection: close\r\n\r\n"
    return head.encode() + body


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@asynccontextmanager
async def fake(answers: Handler) -> AsyncIterator[OpenAiEngine]:
    """An engine over a server that has a model and answers as it is told."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            head = await stream.receive_some(65_536)
            try:
                if head.startswith(b"GET /v1/models"):
                    await stream.send_all(plain(MODELS))
                else:
                    await answers(head, stream)
            except trio.BrokenResourceError:
                pass

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/v1"
        async with open_server(ServerSettings(url, "m", key="secret-key")) as engine:
            yield engine
        nursery.cancel_scope.cancel()


async def _endless_line(_: bytes, stream: trio.SocketStream) -> None:
    await stream.send_all(STREAM + b"data: ")
    while True:
        await stream.send_all(b"x" * 65_536)


async def _wrong_json(_: bytes, stream: trio.SocketStream) -> None:
    await stream.send_all(STREAM + b'data: {"choices": "none"}\n\n')


async def _breaks_off(_: bytes, stream: trio.SocketStream) -> None:
    await stream.send_all(STREAM + event("Hel"))


async def _says_an_error(_: bytes, stream: trio.SocketStream) -> None:
    await stream.send_all(STREAM + b'data: {"error": {"message": "boom"}}\n\n')


def _status(line: str, more: str = "") -> Handler:
    async def answers(_: bytes, stream: trio.SocketStream) -> None:
        await stream.send_all(plain(b"{}", line, more))

    return answers


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (_endless_line, ENGINE_FAILED),
        (_wrong_json, ENGINE_FAILED),
        (_breaks_off, ENGINE_FAILED),
        (_says_an_error, ENGINE_FAILED),
        (_status("401 No"), ENGINE_FAILED),
        (_status("429 Busy", "retry-after: 7\r\n"), CAPACITY),
        (_status("422 What"), FIELD_INVALID),
        (_status("302 Found", "location: http://127.0.0.1:1/\r\n"), ENGINE_FAILED),
    ],
)
async def test_a_server_that_misbehaves_fails_the_answer_and_nothing_else(
    handler: Handler, code: Code
) -> None:
    async with fake(handler) as engine:
        with pytest.raises(TetherError) as caught:
            await ask(engine)
        assert caught.value.code is code and "secret-key" not in str(caught.value)
        assert caught.value.retry_after_s == (7.0 if code is CAPACITY else None)


@pytest.mark.parametrize("said", [b"", STREAM, STREAM + event("Hel")])
async def test_a_server_that_hangs_fails_the_answer_and_the_next_one_is_made(
    said: bytes, mock_clock: trio.testing.MockClock
) -> None:
    asked, closed = trio.Event(), trio.Event()
    hang = True

    async def hangs(_: bytes, stream: trio.SocketStream) -> None:
        if not hang:
            await stream.send_all(STREAM + event("Hi", "stop") + b"data: [DONE]\n\n")
            return
        if said:
            await stream.send_all(said)
        asked.set()
        while await stream.receive_some():
            pass
        closed.set()

    async with fake(hangs) as engine:
        caught: list[TetherError] = []

        async def asks() -> None:
            try:
                await ask(engine, within_s=10 * SILENCE_S)
            except TetherError as error:
                caught.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(asks)
            await asked.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            mock_clock.jump(SILENCE_S + 1)
        assert [error.code for error in caught] == [ENGINE_FAILED]
        await closed.wait()
        hang = False
        assert whole(await ask(engine))[0] == "Hi"


async def test_endless_text_ends_at_max_tokens_and_the_connection_is_closed() -> None:
    closed = trio.Event()

    async def endless(_: bytes, stream: trio.SocketStream) -> None:
        try:
            await stream.send_all(STREAM)
            while True:
                await stream.send_all(event("more "))
                await trio.lowlevel.checkpoint()
        finally:
            closed.set()

    async with fake(endless) as engine:
        text, ids = whole(answer := await ask(engine, max_tokens=5))
        assert (text, len(ids), answer[-1].finish) == ("more " * 5, 5, "length")
        with trio.fail_after(10):
            await closed.wait()


async def test_a_server_that_cannot_go_on_is_not_believed_when_it_says_something_else() -> None:
    async def other(_: bytes, stream: trio.SocketStream) -> None:
        await stream.send_all(STREAM + event("Goodbye, world") + event("", "stop") + b"data: [DONE]\n\n")

    async with fake(other) as engine:
        rest = await ask(engine, resume=pieces_of("Goodbye"))
        assert whole(rest)[0] == ", world"
        with pytest.raises(TetherError) as caught:
            await ask(engine, resume=pieces_of("Hello"))
        assert caught.value.code is ENGINE_FAILED


async def test_the_servers_count_of_tokens_is_what_counts_within_max_tokens() -> None:
    async def counts(_: bytes, stream: trio.SocketStream) -> None:
        usage = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 12}}\n\n'
        await stream.send_all(STREAM + event("Hi", "stop") + usage + b"data: [DONE]\n\n")

    async with fake(counts) as engine:
        assert len(whole(await ask(engine))[1]) == 12
        text, ids = whole(await ask(engine, max_tokens=8))
        assert (text, len(ids), text_of(ids)) == ("Hi", 8, "Hi")


async def test_the_key_goes_to_the_server_and_no_slot_is_left_behind() -> None:
    seen: list[bytes] = []

    async def answers(head: bytes, stream: trio.SocketStream) -> None:
        seen.append(head)
        await stream.send_all(STREAM + event("Hi", "stop") + b"data: [DONE]\n\n")

    async with fake(answers) as engine:
        for _ in range(12):
            assert whole(await ask(engine))[0] == "Hi"
        assert all(b"authorization: Bearer secret-key" in head for head in seen)
        assert "secret-key" not in repr(ServerSettings("http://x/v1", "m", "secret-key"))


async def test_a_server_that_goes_away_is_not_served_until_it_is_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    there = True
    connection = _Sometimes(lambda: there)
    engine = OpenAiEngine(connection, Server("other", "m", 99), 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.watch)
        await trio.sleep(ASKED_EVERY_S + 1)
        assert engine.info.serving
        there = False
        await trio.sleep(ASKED_EVERY_S)
        assert not engine.info.serving
        there = True
        await trio.sleep(ASKED_EVERY_S)
        assert engine.info.serving
        nursery.cancel_scope.cancel()


class _Sometimes(Connection):
    def __init__(self, there: Callable[[], bool]) -> None:
        self._there = there

    async def look(self) -> Server:
        if not self._there():
            raise TetherError(ENGINE_FAILED, "away")
        return Server("other", "m", 99)
