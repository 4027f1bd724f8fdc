"""Two nodes behind routers and a relay in public, ready to be connected over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.net.internet import Internet, Nat
from tests.net.nodes import Node, open_node

PATIENCE_S = 5.0


@dataclass(frozen=True)
class Pair:
    """alice dials bob. ways: bob's addresses behind the relay."""

    relay: Node
    alice: Node
    bob: Node
    ways: tuple[str, ...]

    async def dial(self, patience_s: float = PATIENCE_S) -> float | None:
        """Over the relay, and then how many seconds it took to be direct; None: it stayed relayed."""
        done = await self.alice.ask("punch", peer=self.bob.peer, addresses=self.ways, patience_s=patience_s)
        took_s: float | None = done["took_s"]
        return took_s

    async def part(self) -> None:
        await self.alice.ask("disconnect", peer=self.bob.peer)


@asynccontextmanager
async def open_pair(
    net: Internet,
    one: Nat | None,
    other: Nat | None,
    *,
    delays_ms: tuple[float, float] = (20, 30),
    **options: Any,
) -> AsyncIterator[Pair]:
    """one, other: the routers of alice and bob; None: public. options: of the relay."""
    async with (
        open_node(net.public("relay"), 0, **options) as relay,
        open_node(net.behind(one, delay_ms=delays_ms[0]), 1) as alice,
        open_node(net.behind(other, delay_ms=delays_ms[1]), 2) as bob,
    ):
        await relay.ask("reachability", verdict="public")
        for node in (alice, bob):
            await node.connect(relay)
            await node.ask("reachability", verdict="private")
        await alice.ask("reserved")
        reserved = await bob.ask("reserved")
        yield Pair(relay, alice, bob, tuple(reserved["addresses"]))
