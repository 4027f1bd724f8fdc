"""A small swarm for the worker's tests: an authority, a gateway, an orchestrator, a worker, an engine on a script."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from msgspec.structs import replace

from inference.engine import EngineInfo, Generation, Prompt, Tokens
from inference.engine_room import EngineRoom
from inference.manifest import Manifest, ManifestFile
from inference.offer import Offer, Told
from inference.worker import Worker
from p2p.chain import CHAIN_START, next_link
from p2p.content import ChatMessage, ChunkBody, SealedInput
from p2p.errors import CONTEXT_EXCEEDED, ENGINE_FAILED, TetherError
from p2p.identity import NodeKey, PeerId
from p2p.membership import Issuer, Member, admit, appoint, member_passport, swarm_id_of
from p2p.memory import MemoryNetwork, MemoryNode
from p2p.messages import INFER, Grant, InferChunk, InferRequest, Role, SignedGrant
from p2p.request_mac import request_mac
from p2p.rpc import Rpc
from p2p.sealed import Seal, seal_to
from p2p.transport import PeerAddress
from p2p.wire import decode, encode

NOW = 1_700_000_000.0
AUTHORITY = NodeKey(b"\x01" * 32)
SWARM = swarm_id_of(AUTHORITY)
ISSUER = Issuer(AUTHORITY, SWARM, appoint(AUTHORITY, AUTHORITY.node_id, serial=b"i" * 16, now=NOW))
INCARNATION = 7
CONTEXT = 64
MANIFEST = Manifest("tiny", "1", "llama.cpp", (ManifestFile("tiny.gguf", 1, "00" * 32),), CONTEXT)
CONTENT = SealedInput(
    mac_key=b"k" * 32, messages=(ChatMessage("user", "four words of canary"),), max_tokens=8
)


@dataclass(frozen=True)
class Person:
    key: NodeKey
    credential: bytes

    @property
    def peer(self) -> PeerId:
        return self.key.node_id


def person(name: str, *roles: Role, region: str = "eu") -> Person:
    key = NodeKey(hashlib.sha256(name.encode()).digest())
    serial = hashlib.sha256(b"serial" + name.encode()).digest()[:16]
    return Person(
        key, ISSUER.certify(key.node_id, key.sealing_public, roles, (region,), serial=serial, now=NOW)
    )


GATEWAY = person("gateway", "gateway")
ORCHESTRATOR = person("orchestrator", "orchestrator")
WORKER = person("worker", "worker")
OUTSIDER = person("outsider", "worker")
FOREIGNER = person("foreigner", "gateway", "orchestrator", region="us")
PEOPLE = (GATEWAY, ORCHESTRATOR, WORKER, OUTSIDER, FOREIGNER)


class ScriptedEngine:
    """Counts words as tokens and answers 100, 101, 102 …, one every token_s seconds, or dies, as it is told."""

    token_s = 0.01

    def __init__(self, *, slots: int = 2, length: int = 1_000) -> None:
        self.info = EngineInfo(CONTEXT, slots, "tag")
        self.dies_at: int | None = None
        self.seen: list[Generation] = []
        self.under_way = 0
        self._length = length

    async def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        text = prompt.text if prompt.messages is None else " ".join(turn.content for turn in prompt.messages)
        return tuple(range(len((text or "").split())))

    @asynccontextmanager
    async def generate(self, generation: Generation) -> AsyncIterator[AsyncIterator[Tokens]]:
        if len(generation.prompt) + generation.max_tokens > CONTEXT:
            raise TetherError(CONTEXT_EXCEEDED, "It does not fit.")
        self.seen.append(generation)
        self.under_way += 1
        try:
            yield self._tokens(generation)
        finally:
            self.under_way -= 1

    async def _tokens(self, asked: Generation) -> AsyncIterator[Tokens]:
        for position in itertools.count(len(asked.resume)):
            await trio.sleep(self.token_s)
            if position == self.dies_at:
                raise TetherError(ENGINE_FAILED, "The engine died.")
            if position >= self._length:
                yield Tokens((), position, "", "stop")
                return
            last = position + 1 == asked.max_tokens
            yield Tokens((100 + position,), position, f"{position} ", "length" if last else None)
            if last:
                return


def offer_of(
    engine: ScriptedEngine, manifest: Manifest = MANIFEST, need_bytes: int = 1, load_s: float = 0.0
) -> Offer:
    """A model whose load takes so long and tells of each tenth of it."""

    @asynccontextmanager
    async def start(told: Told) -> AsyncIterator[ScriptedEngine]:
        for tenth in range(10 if load_s else 0):
            told(tenth / 10)
            await trio.sleep(load_s / 10)
        yield engine

    return Offer(manifest, need_bytes, engine.info.slots, CONTEXT, start)


@dataclass
class Counter:
    """What the worker told its metrics."""

    tokens: int = 0
    prompts: int = 0
    firsts: list[float] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    used: int = 0

    def requested(self, prompt_tokens: int) -> None:
        self.prompts += prompt_tokens

    def sampled(self, tokens: int) -> None:
        self.tokens += tokens

    def slots(self, used: int, capacity: int) -> None:
        self.used = used

    def first_token(self, seconds: float) -> None:
        self.firsts.append(seconds)

    def between_tokens(self, seconds: float) -> None:
        pass

    def finished(self, outcome: str, seconds: float) -> None:
        self.outcomes.append(outcome)


def grant_for(content: SealedInput = CONTENT, **changes: object) -> Grant:
    plain = Grant(
        job=b"j" * 32,
        attempt=1,
        grant_id=b"g" * 16,
        tenant="t",
        gateway=GATEWAY.peer,
        worker=WORKER.peer,
        worker_incarnation=INCARNATION,
        manifest_digest=MANIFEST.digest,
        request_mac=request_mac(content.mac_key, content),
        max_prompt_tokens=50,
        max_tokens=60,
        not_after=NOW + 15,
    )
    return replace(plain, **changes)


def sign(grant: Grant, signer: Person = ORCHESTRATOR) -> SignedGrant:
    body = encode(grant)
    return SignedGrant(body, signer.key.sign("grant", body), signer.credential)


class Chunks:
    """The bodies of one answer, opened; seq and chain are checked on the way. before: the link before the last one."""

    def __init__(self, chunks: AsyncIterator[InferChunk], seal: Seal) -> None:
        self._chunks = chunks
        self._seal = seal
        self._seq = 0
        self._link = CHAIN_START
        self.before = CHAIN_START

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> ChunkBody:
        chunk = await anext(self._chunks)
        assert (chunk.seq, chunk.prev_hash, chunk.attempt) == (self._seq, self._link, self._seal.attempt)
        body = decode(self._seal.open("chunk", chunk.seq, chunk.payload), ChunkBody)
        assert chunk.done == (body.finish is not None or body.error is not None)
        self._seq += 1
        self.before = self._link
        self._link = next_link(self._link, chunk.payload)
        return body


@dataclass
class Town:
    """A running worker and those who call it. changes: how often the worker said that its load changed."""

    engine: ScriptedEngine
    worker: Worker
    metrics: Counter
    gateway: Rpc
    orchestrator: Rpc
    outsider: Rpc
    foreigner: Rpc
    leaders: list[PeerId]
    changes: list[int]

    @asynccontextmanager
    async def ask(
        self,
        content: SealedInput = CONTENT,
        grant: Grant | None = None,
        *,
        signed: SignedGrant | None = None,
        caller: Rpc | None = None,
        sealed: bytes | None = None,
    ) -> AsyncIterator[Chunks]:
        """INFER, as a gateway does it; signed and sealed stand in for what an honest one sends."""
        granted = grant or grant_for(content)
        seal, closed = seal_to(WORKER.key.sealing_public, granted.job, granted.attempt, encode(content))
        request = InferRequest("t", "tiny", "1", sealed or closed, "c", "r", "", signed or sign(granted))
        async with (caller or self.gateway).stream(WORKER.peer, INFER, request, timeout_s=60) as chunks:
            yield Chunks(chunks, seal)

    async def answer(
        self, content: SealedInput = CONTENT, grant: Grant | None = None, **changes: Any
    ) -> list[ChunkBody]:
        async with self.ask(content, grant, **changes) as chunks:
            return [body async for body in chunks]


@asynccontextmanager
async def town(
    engine: ScriptedEngine | None = None, offers: list[Offer] | None = None, budget_bytes: int = 1
) -> AsyncIterator[Town]:
    world = MemoryNetwork()
    served = engine or ScriptedEngine()
    nodes = {person.peer: _node(world, person) for person in PEOPLE}
    rpcs = {peer: Rpc(node) for peer, node in nodes.items()}
    start_s = trio.current_time()
    metrics, leaders, changes = Counter(), [ORCHESTRATOR.peer], list[int]()
    at_worker = nodes[WORKER.peer]
    room = EngineRoom([offer_of(served)] if offers is None else offers, budget_bytes)

    def admission(peer: PeerId) -> Member | None:
        admitted = at_worker.admission(peer)
        return admitted if isinstance(admitted, Member) else None

    worker = Worker(
        WORKER.key,
        INCARNATION,
        rpcs[WORKER.peer],
        admission,
        SWARM,
        "eu",
        room,
        now=lambda: NOW + trio.current_time() - start_s,
        leaders=lambda: leaders,
        metrics=metrics,
        on_change=lambda: changes.append(1),
    )
    async with trio.open_nursery() as nursery:
        for rpc in rpcs.values():
            await nursery.start(rpc.run)
        await nursery.start(room.run)
        await room.begun()
        await nursery.start(worker.run)
        for peer, node in nodes.items():
            if peer != WORKER.peer:
                await node.connect(PeerAddress(WORKER.peer, at_worker.addresses()))
        by_person = (rpcs[GATEWAY.peer], rpcs[ORCHESTRATOR.peer], rpcs[OUTSIDER.peer], rpcs[FOREIGNER.peer])
        yield Town(served, worker, metrics, *by_person, leaders, changes)
        nursery.cancel_scope.cancel()


def _node(world: MemoryNetwork, person: Person) -> MemoryNode:
    passport = member_passport(person.credential)
    return world.node(person.peer, lambda: passport, lambda shown, peer: admit(shown, peer, SWARM, NOW))
