"""Nodes that play a script: a worker that speaks ten tokens, an orchestrator that grants."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from msgspec.structs import replace

from p2p.chain import CHAIN_START, next_link
from p2p.content import ChunkBody, SealedInput, Usage
from p2p.errors import INTERNAL, NO_WORKER, TetherError
from p2p.identity import PeerId
from p2p.memory import MemoryNode
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
    Receipt,
    ReleaseRequest,
    Settlement,
    SignedGrant,
    SignedReceipt,
)
from p2p.request_mac import request_mac
from p2p.rpc import Rpc, ServerCall
from p2p.sealed import open_from
from p2p.transport import PeerAddress
from p2p.wire import decode, encode
from tests.topics.world import NOW, TINY, Person

ANSWER = tuple(range(100, 110))
"""Ten tokens, whoever is asked; each stands for its number and a space."""
PROMPT_TOKENS = 5
LOAD_STEP_S = 10.0


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
    """Answers in chunks of two tokens. at: what happens when so many tokens of the answer are out.

    loads: percents of its model that it tells first, one every LOAD_STEP_S.
    """

    node: Node
    at: dict[int, Callable[[], object]] = field(default_factory=dict)
    refuse: TetherError | None = None
    loads: tuple[int, ...] = ()
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
            for percent in self.loads:
                await send(ChunkBody(loading=percent))
                await trio.sleep(LOAD_STEP_S)
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


def text_of(ids: tuple[int, ...]) -> str:
    return "".join(f"{token} " for token in ids)


def respoken(chunk: InferChunk, **changes: object) -> InferChunk:
    """A chunk with some of its open fields changed."""
    return replace(chunk, **changes)
