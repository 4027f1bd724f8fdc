"""A region around one orchestrator: gateways that ask and workers that play a script, in one process."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from msgspec.structs import replace

from p2p.errors import TetherError
from p2p.identity import PeerId
from p2p.job_id import job_id
from p2p.membership import Papers, admit, member_passport
from p2p.memory import MemoryNetwork, MemoryNode
from p2p.messages import (
    PLACE,
    RELEASE,
    RENEW_LEASE,
    RESERVE,
    SETTLE,
    Ack,
    Grant,
    HealthReport,
    JobEnd,
    LeaseRenewal,
    Placement,
    PlacementRequest,
    Receipt,
    ReleaseRequest,
    ReserveAnswer,
    ReserveRequest,
    Role,
    Settlement,
    SignedReceipt,
)
from p2p.rpc import Rpc
from p2p.transport import PeerAddress
from p2p.wire import decode, encode
from tests.topics.world import NOW, SWARM, TINY, Person, health, here, person
from tetherd.orchestrator.orchestrator import Orchestrator
from tetherd.orchestrator.quotas import Quotas
from tetherd.store import MemoryStore, Store
from tetherd.tenants.desk import MemoryKeeper, TenantDesk
from tetherd.tenants.keys import KeyProof, read_key
from topics.announce import Checked
from topics.names import presence
from topics.view import View


@dataclass
class Node:
    person: Person
    network: MemoryNode
    rpc: Rpc

    @property
    def peer(self) -> PeerId:
        return self.person.peer

    @property
    def address(self) -> PeerAddress:
        return PeerAddress(self.peer, self.network.addresses())


@dataclass
class ScriptedWorker:
    """Reserves as many slots as it has. refuse: what it says instead; silent_s: how long it thinks."""

    node: Node
    slots: int = 2
    refuse: TetherError | None = None
    silent_s: float = 0.0
    held: dict[bytes, ReserveRequest] = field(default_factory=dict)
    asked: list[ReserveRequest] = field(default_factory=list)
    released: list[bytes] = field(default_factory=list)
    refused: TetherError | None = None

    @property
    def peer(self) -> PeerId:
        return self.node.peer

    def serve(self) -> None:
        self.node.rpc.serve(RESERVE, self._reserve)
        self.node.rpc.serve(RELEASE, self._release)

    async def _reserve(self, _caller: PeerId, asked: ReserveRequest) -> ReserveAnswer:
        self.asked.append(asked)
        await trio.sleep(self.silent_s)
        if self.refuse is not None:
            raise self.refuse
        self.held[asked.grant_id] = asked
        assert len(self.held) <= self.slots, "overbooked"
        return ReserveAnswer(7, len(self.held))

    async def _release(self, _caller: PeerId, asked: ReleaseRequest) -> Ack:
        self.released.append(asked.grant_id)
        self.held.pop(asked.grant_id, None)
        return Ack()

    def receipt(self, gateway: Person, grant: Grant, *, first: int = 0, position: int) -> SignedReceipt:
        """What both sides sign at the end of an attempt."""
        body = encode(
            Receipt(
                grant.job, grant.attempt, grant.grant_id, self.peer, 5, first, position, "stop", b"c" * 32,
                resumed=first > 0,
            )
        )  # fmt: skip
        return SignedReceipt(
            body, self.node.person.key.sign("receipt", body), gateway.key.sign("receipt", body)
        )


@dataclass
class Gateway:
    node: Node
    leader: PeerId
    tenant: str = "local"
    key: KeyProof | None = None

    def wanted(self, token: str = "token", **changes: object) -> PlacementRequest:
        plain = PlacementRequest(
            job=job_id(self.tenant, token),
            tenant_id=self.tenant,
            model_id=TINY.name,
            version=TINY.version,
            max_prompt_tokens=64,
            max_tokens=32,
            request_mac=b"m" * 32,
            retry_token=token,
            deadline_s=60.0,
        )
        return replace(plain, **changes)

    async def place(self, token: str = "token", **changes: object) -> tuple[Placement, Grant]:
        wanted = self.wanted(token, **changes)
        if self.key is not None:
            wanted = self.key.sign(wanted, self.node.peer)
        placement = await self.node.rpc.ask(self.leader, PLACE, wanted, timeout_s=15.0)
        return placement, decode(placement.grant.grant, Grant)

    async def granted(self, token: str = "token", **changes: object) -> Grant:
        return (await self.place(token, **changes))[1]

    async def settle(
        self,
        grant: Grant,
        end: JobEnd = "done",
        *receipts: SignedReceipt,
        cause: str = "",
        input: bytes = b"",
    ) -> None:
        settlement = Settlement(grant.job, grant.attempt, end, receipts, 0.5, cause, input)
        await self.node.rpc.ask(self.leader, SETTLE, settlement, timeout_s=5.0)

    async def renew(self, grant: Grant) -> None:
        """Only a worker may."""
        renewal = LeaseRenewal(grant.job, grant.attempt, grant.grant_id)
        await self.node.rpc.ask(self.leader, RENEW_LEASE, renewal, timeout_s=5.0)


@dataclass
class FakeSwarm:
    """A real view, told by the tests."""

    region: str
    ranked: list[PeerId]
    view: View
    unreachable: list[PeerId] = field(default_factory=list)

    def leaders(self, region: str | None = None) -> list[PeerId]:
        return list(self.ranked)

    def report_unreachable(self, peer: PeerId) -> None:
        self.unreachable.append(peer)
        self.view.doubt(peer, trio.current_time())


@dataclass
class Counts:
    """An orchestrator's metrics."""

    outcomes: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    waiting_now: int = 0
    dead: int = 0
    copies: Counter[bool] = field(default_factory=Counter)

    def placed(self, outcome: str, seconds: float) -> None:
        self.outcomes[outcome] += 1

    def waiting(self, requests: int) -> None:
        self.waiting_now = requests

    def settled(self, end: str, prompt_tokens: int, tokens: int) -> None:
        self.ends[end] += 1
        self.tokens += tokens

    def dead_lettered(self, jobs: int) -> None:
        self.dead += jobs

    def copied(self, acknowledged: bool) -> None:
        self.copies[acknowledged] += 1


@dataclass
class Region:
    world: MemoryNetwork
    orchestrator: Orchestrator
    leader: Node
    swarm: FakeSwarm
    store: Store
    counts: Counts
    workers: list[ScriptedWorker]
    gateways: list[Gateway]
    nursery: trio.Nursery
    desk: TenantDesk
    start: Callable[..., Awaitable[Node]]

    async def lend_key(self, gateway: Gateway, tenant: str) -> KeyProof:
        """Make a tenant, and let a gateway ask with its key from now on."""
        await self.desk.create_tenant(tenant, "")
        gateway.tenant, gateway.key = tenant, read_key((await self.desk.create_key(tenant))["key"])
        return gateway.key

    @property
    def gateway(self) -> Gateway:
        return self.gateways[0]

    def worker(self, peer: PeerId) -> ScriptedWorker:
        return next(worker for worker in self.workers if worker.peer == peer)

    def report(self, worker: ScriptedWorker, *, state: str = "ready", **changes: object) -> None:
        """A worker's health reaches the view."""
        report = replace(health(worker.peer, capacity=worker.slots, load=len(worker.held)), **changes)
        tell(self.swarm.view, worker.node, report, state)


def tell(view: View, node: Node, report: HealthReport | None, state: str = "ready") -> None:
    said = here("eu", node.person.member.certificate.roles, addresses=node.network.addresses(), state=state)
    said = replace(said, health=report)
    announcement = node.person.says(said)
    view.observe(Checked(node.person.member, presence("eu"), said, announcement), trio.current_time())


@asynccontextmanager
async def region(
    *,
    workers: int = 2,
    slots: int = 2,
    gateways: int = 1,
    leader_roles: tuple[Role, ...] = ("orchestrator",),
    ledger: Store | None = None,
    quotas: Quotas = Quotas(),  # noqa: B008 it is frozen
) -> AsyncIterator[Region]:
    """A running region; all its clocks start at NOW and run with trio's. ledger: None for one in memory."""
    world = MemoryNetwork()
    began = trio.current_time()
    grant_ids = (b"%016d" % number for number in itertools.count(1))
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

        leader = await start("leader", *leader_roles)
        serving = [ScriptedWorker(await start(f"worker {n}", "worker"), slots) for n in range(workers)]
        asking = [Gateway(await start(f"gateway {n}", "gateway"), leader.peer) for n in range(gateways)]
        swarm = FakeSwarm("eu", [leader.peer], View(leader.peer))
        store, counts = ledger or MemoryStore(), Counts()
        desk = TenantDesk(MemoryKeeper(), now=lambda: NOW + trio.current_time() - began)
        orchestrator = Orchestrator(
            leader.person.key,
            Papers(leader.person.member),
            swarm,
            leader.network,
            leader.rpc,
            store,
            now=lambda: NOW + trio.current_time() - began,
            draw=lambda: next(grant_ids),
            metrics=counts,
            desk=desk,
            quotas=quotas,
        )
        made = Region(
            world, orchestrator, leader, swarm, store, counts, serving, asking, nursery, desk, start
        )
        for worker in serving:
            worker.serve()
            made.report(worker)
        for gateway in asking:
            await gateway.node.network.connect(leader.address)
        await nursery.start(orchestrator.run)
        yield made
        nursery.cancel_scope.cancel()
