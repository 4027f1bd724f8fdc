"""Messages longer than a frame: they travel in parts, under credit, and never mixed."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2p.errors import CANCELLED, FRAME_TOO_LARGE, TetherError
from p2p.identity import PeerId
from p2p.rpc import RpcLimits, ServerCall
from tests.p2p.calls import COUNT, ECHO, Note, echo, two
from tests.p2p.nodes import B


async def test_messages_of_megabytes_go_both_ways_and_one_over_the_limit_never_leaves() -> None:
    async def inflate(peer: PeerId, note: Note) -> Note:
        return Note(body=bytes(note.n))

    async with two() as pair:
        pair.bob.serve(ECHO, inflate)
        limit = RpcLimits().message_bytes
        with pytest.raises(TetherError) as caught:
            await pair.alice.ask(B, ECHO, Note(body=bytes(limit)), timeout_s=10)
        assert caught.value.code is FRAME_TOO_LARGE
        with pytest.raises(TetherError) as caught:
            await pair.alice.ask(B, ECHO, Note(n=limit), timeout_s=10)
        assert caught.value.code is FRAME_TOO_LARGE
        whole = limit - 100
        assert len((await pair.alice.ask(B, ECHO, Note(n=whole), timeout_s=10)).body) == whole
        await pair.alice.ask(B, ECHO, Note(body=bytes(whole)), timeout_s=10)


async def test_an_answer_left_in_the_middle_fails_its_call_and_no_other(autojump_clock: MockClock) -> None:
    async def cut(call: ServerCall[Note, Note]) -> None:
        with trio.move_on_after(1):
            await call.send(Note(body=bytes(1_000_000)))
        await call.send(Note())

    async with two() as pair:
        pair.bob.serve_stream(COUNT, cut)
        pair.bob.serve(ECHO, echo)
        async with pair.alice.stream(B, COUNT, Note()) as answers:
            await trio.sleep(2)  # nobody asks for it, so its parts stop at the window
            with pytest.raises(TetherError) as caught:
                await anext(answers)
        assert caught.value.code is CANCELLED
        assert await pair.alice.ask(B, ECHO, Note("hello"), timeout_s=1) == Note("A said hello")


async def test_two_senders_of_one_call_do_not_mix_their_parts() -> None:
    async def twice(call: ServerCall[Note, Note]) -> None:
        async with trio.open_nursery() as nursery:
            for n in range(6):
                nursery.start_soon(call.send, Note(n=n, body=bytes([n]) * 300_000 * (n % 2)))

    async with two() as pair:
        pair.bob.serve_stream(COUNT, twice)
        async with pair.alice.stream(B, COUNT, Note()) as answers:
            heard = {note.n: note.body async for note in answers}
    assert heard == {n: bytes([n]) * 300_000 * (n % 2) for n in range(6)}
