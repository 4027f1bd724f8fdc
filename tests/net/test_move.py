"""A machine that gets another address while its daemon runs."""

from __future__ import annotations

import pytest
import trio

from tests.net.internet import PORT, Internet
from tests.net.namespaces import needs_namespaces
from tests.net.nodes import open_node

pytestmark = needs_namespaces
NEW = "11.0.0.77"


@pytest.mark.parametrize("who", ["caller", "callee"])
async def test_a_call_goes_on_when_one_side_moves_and_others_reach_it_at_the_new_address(who: str) -> None:
    with Internet() as net:
        async with (
            open_node(net.public(), 0) as caller,
            open_node(net.public(), 1) as callee,
            open_node(net.public(), 2) as stranger,
            trio.open_nursery() as nursery,
        ):
            mover, stays = (caller, callee) if who == "caller" else (callee, caller)
            await caller.connect(callee)
            counted: dict[str, object] = {}

            async def count() -> None:
                counted.update(await caller.ask("count", peer=callee.peer, numbers=1_000, interval_s=0.01))

            nursery.start_soon(count)
            await caller.ask("counted", peer=callee.peer, numbers=100)
            mover.where.move(NEW)
            await mover.event(event="addresses", first=f"/ip4/{NEW}/tcp/{PORT}")
            await stranger.connect(mover, f"/ip4/{NEW}/tcp/{PORT}")
            await stays.event(event="peer", peer=mover.peer, up=False)
        assert (counted["numbers"], counted["ordered"]) == (1_000, True), f"seed {net.seed}"
