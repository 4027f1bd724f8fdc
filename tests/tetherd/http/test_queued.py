"""A streaming client that waits for a slot hears its place in the queue, then how far its model is, as comments."""

from __future__ import annotations

import httpx2
import trio
from trio.testing import MockClock

from tests.tetherd.http.scripted import CHAT, HELLO, ScriptedInference
from tetherd.gateway.answer import Loading, Queued


async def test_what_a_request_waits_for_is_a_comment_whenever_it_changes(
    client: httpx2.AsyncClient, inference: ScriptedInference, autojump_clock: MockClock
) -> None:
    inference.accept_after = trio.Event()

    async def move_up() -> None:
        await inference.submitted.wait()
        assert inference.accept_after is not None
        tell = inference.told[0]
        assert tell is not None
        for wait in (Queued(3), Queued(3), Queued(2), Loading(0), Loading(40), Loading(40)):
            await trio.sleep(1.0)
            tell(wait)
        await trio.sleep(1.0)
        inference.accept_after.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move_up)
        answer = await client.post(CHAT, json={**HELLO, "stream": True})
    comments = [line for line in answer.text.splitlines() if line.startswith(":")]
    assert comments == [": waiting", ": queued 3", ": queued 2", ": loading 0 %", ": loading 40 %"]
