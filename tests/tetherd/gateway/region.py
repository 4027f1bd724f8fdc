"""A region around one gateway: orchestrators and workers that play a script, over a network in one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from p2p.content import ChatMessage, Sampling
from p2p.identity import PeerId
from p2p.membership import admit, member_passport
from p2p.memory import MemoryNetwork
from p2p.messages import (
    Presence,
    Role,
    Settlement,
)
from p2p.rpc import Rpc
from p2p.transport import PeerAddress
from tests.tetherd.gateway.scripted import (
    ANSWER,
    Node,
    ScriptedLeader,
    ScriptedWorker,
)
from tests.topics.world import NOW, SWARM, health, person
from tetherd.gateway.answer import Answer, Delta, End, Submission
from tetherd.gateway.gateway import Gateway
from tetherd.gateway.journal import Journal
from tetherd.gateway.ports import Hop
from tetherd.gateway.replay import Replays
from tetherd.gateway.retries import Retries
from tetherd.gateway.settings import GatewaySettings
from tetherd.identity.tokens import Tokens

QUESTION = Submission("local", "tiny", Sampling(temperature=0.0), messages=(ChatMessage("user", "Hello?"),))
TEXT = "".join(f"{token} " for token in ANSWER)


@dataclass
class KnownWorker:
    peer: PeerId
    presence: Presence


@dataclass
class FakeSwarm:
    """What the gateway sees of the region."""

    region: str
    ranked: list[PeerId]
    known: list[KnownWorker]
    addresses: dict[PeerId, tuple[str, ...]]
    found: list[PeerAddress] = field(default_factory=list)
    lookups: int = 0
    unreachable: list[PeerId] = field(default_factory=list)

    @property
    def view(self) -> FakeSwarm:
        return self

    def workers(self, region: str) -> list[KnownWorker]:
        return self.known if region == self.region else []

    def leaders(self, region: str | None = None) -> list[PeerId]:
        return list(self.ranked)

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]:
        return self.addresses.get(peer, ())

    async def find_workers(self, model: str, version: str, region: str | None = None) -> list[PeerAddress]:
        self.lookups += 1
        return self.found

    def report_unreachable(self, peer: PeerId) -> None:
        self.unreachable.append(peer)


@dataclass
class Counts:
    """A gateway's metrics."""

    outcomes: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    hops: Counter[Hop] = field(default_factory=Counter)
    first_tokens: int = 0
    gaps: int = 0
    receipts_refused: int = 0
    unsettled_now: int = 0
    started: int = 0

    def request_started(self) -> None:
        self.started += 1

    def request_ended(self, outcome: str) -> None:
        self.outcomes[outcome] += 1

    def attempt_ended(self, cause: str) -> None:
        self.causes[cause] += 1

    def hop(self, hop: Hop, seconds: float) -> None:
        self.hops[hop] += 1

    def first_token(self, seconds: float) -> None:
        self.first_tokens += 1

    def inter_token(self, seconds: float) -> None:
        self.gaps += 1

    def receipt_refused(self) -> None:
        self.receipts_refused += 1

    def unsettled(self, jobs: int) -> None:
        self.unsettled_now = jobs


@dataclass
class Region:
    world: MemoryNetwork
    gateway: Gateway
    at_gateway: Node
    swarm: FakeSwarm
    leaders: list[ScriptedLeader]
    workers: list[ScriptedWorker]
    counts: Counts

    @property
    def leader(self) -> ScriptedLeader:
        return self.leaders[0]

    async def answer(self, submission: Submission = QUESTION) -> tuple[str, End]:
        """Submit and read to the end."""
        async with self.gateway.submit(submission) as answer:
            return await read(answer)

    async def settled(self) -> list[Settlement]:
        """All settlements, once nothing is under way behind the gateway's back."""
        await self.gateway.drain()
        return [settlement for leader in self.leaders for settlement in leader.settled]


@asynccontextmanager
async def region(
    *,
    leaders: int = 1,
    workers: int = 2,
    now: Callable[[], float] = lambda: NOW,
    folder: Path | None = None,
    tokens: Tokens | None = None,
    **settings: float,
) -> AsyncIterator[Region]:
    """A running region. The gateway is connected to nobody yet; its files are in folder, or in one that goes."""
    world = MemoryNetwork()
    with TemporaryDirectory() as passing:
        kept = folder or Path(passing)
        async with trio.open_nursery() as nursery:

            async def start(name: str, *roles: Role) -> Node:
                who = person(name, roles=roles)
                passport = member_passport(who.member.credential)
                network = world.node(
                    who.peer, lambda: passport, lambda shown, peer: admit(shown, peer, SWARM, NOW)
                )
                node = Node(who, network, Rpc(network))
                await nursery.start(node.rpc.run)
                return node

            at_gateway = await start("gateway", "gateway")
            serving = [ScriptedWorker(await start(f"worker {number}", "worker")) for number in range(workers)]
            leading = [
                ScriptedLeader(await start(f"leader {number}", "orchestrator"), serving)
                for number in range(leaders)
            ]
            for one in (*serving, *leading):
                one.serve()
            known = [
                KnownWorker(
                    one.node.peer,
                    Presence("eu", ("worker",), one.node.network.addresses(), health=health(one.node.peer)),
                )
                for one in serving
            ]
            addresses = {one.node.peer: one.node.network.addresses() for one in leading}
            swarm = FakeSwarm("eu", [one.node.peer for one in leading], known, addresses)
            counts = Counts()
            replays = Replays(kept, b"s" * 32, now=now)
            journal = Journal(kept / "settlements", now=now, in_thread=at_once)
            retries = Retries(kept / "dead-inputs", b"s" * 32, at_gateway.network, now=now)
            gateway = Gateway(
                at_gateway.person.key, SWARM, at_gateway.network, at_gateway.rpc, swarm, replays, journal, retries,
                metrics=counts, settings=replace_settings(**settings), now=now, draw=lambda: 0.5,
                tokens=tokens, require_keys=tokens is not None,
            )  # fmt: skip
            await nursery.start(gateway.run)
            yield Region(world, gateway, at_gateway, swarm, leading, serving, counts)
            nursery.cancel_scope.cancel()


async def at_once(act: Callable[..., object], *args: object) -> object:
    """A virtual clock would not wait for a thread."""
    await trio.lowlevel.checkpoint()
    return act(*args)


def replace_settings(**settings: float) -> GatewaySettings:
    return GatewaySettings(**settings)  # type: ignore[arg-type]


async def read(answer: Answer) -> tuple[str, End]:
    text, end = "", None
    async for item in answer:
        match item:
            case Delta():
                text += item.text
            case End():
                end = item
    assert end is not None
    return text, end
