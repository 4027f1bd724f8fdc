"""A region around one gateway: orchestrators and workers that play a script, over a network in one process."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from msgspec.structs import replace

from p2p.chain import CHAIN_START, next_link
from p2p.content import ChatMessage, ChunkBody, Sampling, SealedInput, Usage
from p2p.errors import INTERNAL, NO_WORKER, TetherError
from p2p.identity import PeerId
from p2p.membership import admit, member_passport
from p2p.memory import MemoryNetwork, MemoryNode
from p2p.messages import (
    INFER,
    PLACE,
    RELEASE,
    SETTLE,
    Ack,
    Grant,
    InferChunk,
    InferRequest,
    Placement,
    PlacementRequest,
    Presence,
    Receipt,
    ReleaseRequest,
    Role,
    Settlement,
    SignedGrant,
    SignedReceipt,
)
from p2p.request_mac import request_mac
from p2p.rpc import Rpc, ServerCall
from p2p.sealed import open_from
from p2p.transport import PeerAddress
from p2p.wire import decode, encode
from tests.topics.world import NOW, SWARM, TINY, Person, health, person
from tetherd.gateway.answer import Answer, Delta, End, Submission
from tetherd.gateway.gateway import Gateway
from tetherd.gateway.journal import Journal
from tetherd.gateway.ports import Hop
from tetherd.gateway.replay import Replays
from tetherd.gateway.retries import Retries
from tetherd.gateway.settings import GatewaySettings

ANSWER = tuple(range(100, 110))
"""Ten tokens, whoever is asked; each stands for its number and a space."""
QUESTION = Submission("local", "tiny", Sampling(temperature=0.0), messages=(ChatMessage("user", "Hello?"),))
TEXT = "".join(f"{token} " for token in ANSWER)
PROMPT_TOKENS = 5


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
    """Answers in chunks of two tokens. at: what happens when so many tokens of the answer are out."""

    node: Node
    at: dict[int, Callable[[], object]] = field(default_factory=dict)
    refuse: TetherError | None = None
    spoil: Callable[[InferChunk], InferChunk] = lambda chunk: chunk
    spoil_body: Callable[[ChunkBody], ChunkBody] = lambda body: body
    inputs: list[SealedInput] = field(default_factory=list)
    requests: list[InferRequest] = field(default_factory=list)
    released: list[ReleaseRequest] = field(default_factory=list)
    sampled: int = 0
    cancelled: trio.Event = field(default_factory=trio.Event)

    def serve(self) -> None:
        self.node.rpc.serve_stream(INFER, self._infer)
        self.node.rpc.serve(RELEASE, self._release)

    async def _release(self, _caller: PeerId, request: ReleaseRequest) -> Ack:
        self.released.append(request)
        return Ack()

    async def _infer(self, call: ServerCall[InferRequest, InferChunk]) -> None:
        self.requests.append(call.request)
        grant = decode(call.request.grant.grant, Grant)
        seal, plain = open_from(self.node.person.key, grant.job, grant.attempt, call.request.input)
        content = decode(plain, SealedInput)
        assert request_mac(content.mac_key, content) == grant.request_mac
        self.inputs.append(content)
        link, seq = CHAIN_START, 0

        async def send(body: ChunkBody, done: bool = False) -> None:
            nonlocal link, seq
            payload = seal.close("chunk", seq, encode(self.spoil_body(body)))
            correlation = call.request.correlation_id
            await call.send(self.spoil(InferChunk(correlation, seq, payload, done, grant.attempt, link)))
            link, seq = next_link(link, payload), seq + 1

        try:
            if self.refuse is not None:
                await send(ChunkBody(error=self.refuse.to_wire()), done=True)
                return
            await send(ChunkBody(accepted=PROMPT_TOKENS))
            position = len(content.resume)
            while position < len(ANSWER):
                await trio.sleep(0.01)
                if act := self.at.pop(position, None):
                    outcome = act()
                    if isinstance(outcome, TetherError):
                        raise outcome
                    if isinstance(outcome, trio.Event):
                        await outcome.wait()
                ids = ANSWER[position : position + 2]
                self.sampled += len(ids)
                await send(ChunkBody(token_ids=ids, text=text_of(ids), position=position))
                position += len(ids)
            receipt = encode(
                Receipt(
                    grant.job, grant.attempt, grant.grant_id, self.node.peer, PROMPT_TOKENS, len(content.resume),
                    position, "stop", link, resumed=bool(content.resume),
                )
            )  # fmt: skip
            signed = SignedReceipt(receipt, self.node.person.key.sign("receipt", receipt))
            usage = Usage(PROMPT_TOKENS, position)
            await send(ChunkBody(position=position, finish="stop", usage=usage, receipt=signed), done=True)
        except trio.Cancelled:
            self.cancelled.set()
            raise


@dataclass
class ScriptedLeader:
    """Grants the first worker that is not excluded. silent: seconds before it answers; refuse: instead of a grant."""

    node: Node
    workers: list[ScriptedWorker]
    silent_s: float = 0.0
    refuse: list[TetherError] = field(default_factory=list)
    spoil: Callable[[Grant], Grant] = lambda grant: grant
    spoil_placement: Callable[[Placement], Placement] = lambda placement: placement
    asked: list[PlacementRequest] = field(default_factory=list)
    settled: list[Settlement] = field(default_factory=list)
    refuse_settlements: int = 0
    away: TetherError | None = None
    choke_on: int = 0
    attempts: Counter[bytes] = field(default_factory=Counter)

    def serve(self) -> None:
        self.node.rpc.serve(PLACE, self._place)
        self.node.rpc.serve(SETTLE, self._settle)

    async def _settle(self, _caller: PeerId, settlement: Settlement) -> Ack:
        if self.away is not None:
            raise self.away
        if self.choke_on and settlement.job == self.asked[self.choke_on - 1].job:
            raise TetherError(INTERNAL, "A defect.")
        if self.refuse_settlements:
            self.refuse_settlements -= 1
            raise TetherError(NO_WORKER, "Not now.")
        self.settled.append(settlement)
        return Ack()

    async def _place(self, caller: PeerId, wanted: PlacementRequest) -> Placement:
        self.asked.append(wanted)
        await trio.sleep(self.silent_s)
        if self.refuse:
            raise self.refuse.pop(0)
        chosen = next((one for one in self.workers if one.node.peer not in wanted.exclude), None)
        if chosen is None:
            raise TetherError(NO_WORKER, "Nobody is left.")
        self.attempts[wanted.job] = max(self.attempts[wanted.job], wanted.last_attempt) + 1
        grant = encode(
            self.spoil(
                Grant(
                    job=wanted.job,
                    attempt=self.attempts[wanted.job],
                    grant_id=hashlib.sha256(f"{self.node.peer}{self.attempts}".encode()).digest()[:16],
                    tenant=wanted.tenant_id,
                    gateway=caller,
                    worker=chosen.node.peer,
                    worker_incarnation=1,
                    manifest_digest=TINY.digest,
                    request_mac=wanted.request_mac,
                    max_prompt_tokens=wanted.max_prompt_tokens,
                    max_tokens=wanted.max_tokens,
                    not_after=NOW + 15,
                )
            )
        )
        me = self.node.person
        signed = SignedGrant(grant, me.key.sign("grant", grant), me.member.credential)
        credential = chosen.node.person.member.credential
        addresses = chosen.node.network.addresses()
        return self.spoil_placement(Placement(signed, credential, addresses, "eu", TINY))


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


def text_of(ids: tuple[int, ...]) -> str:
    return "".join(f"{token} " for token in ids)


def respoken(chunk: InferChunk, **changes: object) -> InferChunk:
    """A chunk with some of its open fields changed."""
    return replace(chunk, **changes)
