"""Whole swarms in one process on virtual time: real announcements, calls and elections over `MemoryNetwork`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from p2p.identity import PeerId
from p2p.membership import Papers, admit, member_passport
from p2p.memory import MemoryNetwork, MemoryNode
from p2p.messages import ROLES, HealthReport, Role, ServedModel
from p2p.rpc import Rpc
from p2p.transport import PeerAddress
from tests.topics.world import NOW, SWARM, TINY, Person, health, person
from topics.settings import LAN_SETTINGS, SwarmSettings
from topics.swarm import Swarm


@dataclass
class Counts:
    """A node's `SwarmMetrics`."""

    dropped: Counter[str] = field(default_factory=Counter)
    lookups: list[tuple[str, int]] = field(default_factory=list)
    elections: int = 0

    def announcement_dropped(self, reason: str) -> None:
        self.dropped[reason] += 1

    def dht_lookup(self, kind: str, found: int, seconds: float) -> None:
        self.lookups.append((kind, found))

    def leader_changed(self, region: str) -> None:
        self.elections += 1


@dataclass
class Node:
    """A daemon, as far as the swarm goes. load: what its health report says next."""

    person: Person
    network: MemoryNode
    rpc: Rpc
    swarm: Swarm
    counts: Counts
    scope: trio.CancelScope
    load: int = 0

    @property
    def peer(self) -> PeerId:
        return self.person.peer

    @property
    def leader(self) -> PeerId | None:
        return next(iter(self.swarm.leaders()), None)

    def sees(self, other: Node) -> str:
        known = self.swarm.view.get(other.peer)
        return known.state if known is not None else "unknown"

    def load_of(self, other: Node) -> int | None:
        known = self.swarm.view.get(other.peer)
        return known.presence.health.load if known is not None and known.presence.health is not None else None


class Town:
    """Starts and kills nodes. All of them know the time; none knows another that it was not told of."""

    def __init__(self, nursery: trio.Nursery, settings: SwarmSettings = LAN_SETTINGS) -> None:
        self.world = MemoryNetwork(delay_s=0.002)
        self.nodes: dict[str, Node] = {}
        self._nursery = nursery
        self._settings = settings
        self._lives: Counter[str] = Counter()

    async def start(
        self,
        name: str,
        *,
        via: str | None = None,
        region: str = "eu",
        roles: tuple[Role, ...] = ROLES,
        serves: tuple[ServedModel, ...] = (TINY,),
        certified: tuple[Role, ...] | None = None,
        joined: bool = True,
    ) -> Node:
        """Start a node that knows the address of one other. joined: wait until it knows a leader."""
        self._lives[name] += 1
        who = person(name, roles=certified or roles, regions=(region,))
        counts = Counts()
        network = self.world.node(
            who.peer,
            lambda: member_passport(who.member.credential),
            lambda passport, peer: admit(passport, peer, SWARM, self.now()),
        )
        rpc = Rpc(network)

        def report() -> HealthReport | None:
            return health(who.peer, model_cache=serves, load=node.load)

        swarm = Swarm(
            network, rpc, who.key, Papers(who.member), region=region, roles=roles, incarnation=self._lives[name],
            settings=self._settings, health=report, metrics=counts, now=self.now,
        )  # fmt: skip
        node = Node(who, network, rpc, swarm, counts, trio.CancelScope())
        self.nodes[name] = node
        await self._nursery.start(self._live, node, via and self.nodes[via])
        if joined:
            with trio.fail_after(20):
                await swarm.wait_joined()
        return node

    async def kill(self, name: str) -> None:
        """As SIGKILL does."""
        node = self.nodes.pop(name)
        self.world.kill(node.peer)
        node.scope.cancel()
        await trio.lowlevel.checkpoint()

    def cut(self, side: list[Node]) -> None:
        for one in side:
            for other in self.nodes.values():
                if other not in side:
                    self.world.cut(one.peer, other.peer)

    def heal(self) -> None:
        for one in self.nodes.values():
            for other in self.nodes.values():
                if one is not other:
                    self.world.heal(one.peer, other.peer)

    def now(self) -> float:
        return NOW + trio.current_time()

    async def _live(self, node: Node, via: Node | None, *, task_status: trio.TaskStatus[None]) -> None:
        with node.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(node.rpc.run)
                if via is not None:
                    await node.network.connect(PeerAddress(via.peer, via.network.addresses()))
                await nursery.start(node.swarm.run)
                task_status.started()


async def until(condition: Callable[[], bool], within_s: float) -> float:
    """Wait for a condition on virtual time; returns how long it took. Raises trio.TooSlowError."""
    began = trio.current_time()
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - the machines under test have no event for this
            await trio.sleep(0.05)
    return trio.current_time() - began
