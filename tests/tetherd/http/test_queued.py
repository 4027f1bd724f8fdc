"""A streaming client that waits for a slot hears its place in the queue, as comments."""

from __future__ import annotations

import httpx2
import trio
from trio.testing import MockClock

from tests.tetherd.http.scripted import CHAT, HELLO, ScriptedInference


async def test_the_place_in_the_queue_is_a_comment_whenever_it_changes(
    client: httpx2.AsyncClient, inference: ScriptedInference, autojump_clock: MockClock
) -> None:
    inference.accept_after = trio.Event()

    async def move_up() -> None:
        await inference.submitted.wait()
        assert inference.accept_after is not None
        tell = inference.queued[0]
        assert tell is not None
        for position in (3, 3, 2, 1):
            await trio.sleep(1.0)
            tell(position)
        await trio.sleep(1.0)
        inference.accept_after.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move_up)
        answer = await client.post(CHAT, json={**HELLO, "stream": True})
    comments = [line for line in answer.text.splitlines() if line.startswith(":")]
    assert comments == [": waiting", ": queued 3", ": queued 2", ": queued 1"]
