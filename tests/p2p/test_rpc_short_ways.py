"""Calls that take a shorter way: of a node to itself, and streams whose last answer is their end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from p2p.errors import CAPACITY, DEADLINE, FIELD_INVALID, INTERNAL, UNKNOWN_METHOD, Code, TetherError
from p2p.identity import PeerId
from p2p.rpc import ServerCall
from tests.p2p.calls import COUNT, ECHO, Note, echo, two
from tests.p2p.nodes import A, B

Handler = Callable[[PeerId, Note], Awaitable[Note]]


async def test_a_call_to_itself_has_its_faults_its_deadline_and_no_crash(autojump_clock: MockClock) -> None:
    async def code(handler: Handler | None) -> Code:
        async with two() as pair:
            if handler is not None:
                pair.alice.serve(ECHO, handler)
            with pytest.raises(TetherError) as caught:
                await pair.alice.ask(A, ECHO, Note("hello"), timeout_s=1)
            return caught.value.code

    async def refuse(peer: PeerId, note: Note) -> NoReturn:
        raise TetherError(FIELD_INVALID, "No such text.")

    async def broken(peer: PeerId, note: Note) -> NoReturn:
        raise KeyError("the secret of the request")

    async def slow(peer: PeerId, note: Note) -> NoReturn:
        await trio.sleep_forever()
        raise AssertionError

    with capture_logs() as logs:
        assert [await code(one) for one in (refuse, broken, slow, None)] == [
            FIELD_INVALID,
            INTERNAL,
            DEADLINE,
            UNKNOWN_METHOD,
        ]
    assert [one["event"] for one in logs] == ["rpc.handler_crashed"]
    assert "secret" not in str(logs)


async def test_a_streams_last_answer_is_its_end_whatever_its_handler_does_after_it() -> None:
    go_on = trio.Event()

    async def count(call: ServerCall[Note, Note]) -> None:
        await call.send(Note(n=1))
        await call.finish(Note(n=2))
        await go_on.wait()
        raise TetherError(CAPACITY, "Too late to matter.")

    async with two() as pair:
        pair.bob.serve_stream(COUNT, count)
        async with pair.alice.stream(B, COUNT, Note()) as answers:
            assert [note.n async for note in answers] == [1, 2]
        go_on.set()
        pair.bob.serve(ECHO, echo)
        assert await pair.alice.ask(B, ECHO, Note("hello"), timeout_s=1) == Note("A said hello"), (
            "the session goes on"
        )
