"""What the tests of rpc call: a few methods, and two nodes that can."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from p2p.identity import PeerId
from p2p.memory import MemoryNetwork, MemoryNode
from p2p.messages import Message, Method
from p2p.rpc import NoMetrics, Rpc, RpcLimits, RpcMetrics
from tests.p2p.nodes import A, B, address, member


class Note(Message, frozen=True):
    text: str = ""
    n: int = 0
    body: bytes = b""


ECHO = Method("echo", Note, Note)
COUNT = Method("count", Note, Note, priority=1)
"""Answers n notes, numbered from 0, each with the request's body."""
KNOCK = Method("knock", Note, Note, guests=True)


@dataclass
class Two:
    """alice calls, bob answers."""

    world: MemoryNetwork
    at_alice: MemoryNode
    at_bob: MemoryNode
    alice: Rpc
    bob: Rpc
    nursery: trio.Nursery

    def break_stream(self) -> None:
        """Lose the connection for a moment."""
        self.world.cut(A, B)
        self.world.heal(A, B)

    async def restart_bob(self) -> Rpc:
        self.world.kill(B)
        bob = Rpc(member(self.world, B))
        await self.nursery.start(bob.run)
        return bob


@asynccontextmanager
async def two(
    *,
    limits: RpcLimits = RpcLimits(),  # noqa: B008 it is frozen
    alice_metrics: RpcMetrics = NoMetrics(),  # noqa: B008 it keeps nothing
    bob_metrics: RpcMetrics = NoMetrics(),  # noqa: B008 it keeps nothing
    delay_s: float = 0.0,
) -> AsyncIterator[Two]:
    world = MemoryNetwork(delay_s=delay_s)
    at_alice, at_bob = member(world, A), member(world, B)
    alice = Rpc(at_alice, limits=limits, metrics=alice_metrics)
    bob = Rpc(at_bob, limits=limits, metrics=bob_metrics)
    async with trio.open_nursery() as nursery:
        await nursery.start(alice.run)
        await nursery.start(bob.run)
        await at_alice.connect(address(at_bob))
        yield Two(world, at_alice, at_bob, alice, bob, nursery)
        nursery.cancel_scope.cancel()


async def echo(peer: PeerId, note: Note) -> Note:
    return Note(f"{peer} said {note.text}", note.n, note.body)
