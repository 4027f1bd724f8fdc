"""The messages of the wire, as msgspec Structs: msgpack maps with camelCase keys (docs/wire-protocol.md).

Unknown fields are ignored. What comes of prompts and answers is sealed (`p2p/content.py`); all this is read in clear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

import msgspec

from p2p.identity import PeerId
from p2p.rates import Rates

PROTOCOL_VERSION: Final = 1


class Message(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What all messages share: immutable, camelCase on the wire."""


Role = Literal["gateway", "orchestrator", "worker"]
ROLES: Final[tuple[Role, ...]] = ("gateway", "orchestrator", "worker")


Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Answer]):
    """A call's name on the wire and the types of its two directions.

    priority: 0 control, 1 chunks, 2 artifacts; guests: it goes over the protocol that holders of an invite may speak.
    """

    name: str
    request: type[Request]
    answer: type[Answer]
    priority: int = 0
    guests: bool = False


# ── Announcements ────────────────────────────────────────────────────────────────────────────────────────────────


class Envelope(Message, frozen=True):
    """A signed announcement. payload: msgpack of the topic's message; issued_at: unix seconds; ttl: seconds."""

    topic: str
    payload: bytes
    node_id: PeerId
    incarnation: int
    seq: int
    issued_at: float
    ttl: float
    signature: bytes = b""


class Announcement(Message, frozen=True):
    """An envelope with the credential (an encoded `Credential`) that lets a stranger check it offline."""

    envelope: Envelope
    credential: bytes


MAX_PREFIXES: Final = 8
PREFIX_BYTES: Final = 8
"""Of a digest that only says "perhaps": another request with the same one merely gains nothing."""


class ServedModel(Message, frozen=True):
    """A model that a worker serves. digest: of its manifest, hex; context_tokens: prompt and answer; loaded: in memory.

    exact: a seed repeats within a build tag; tokens_per_second: of one answer alone, or 0; embeds: dimensions, 0: text.
    """

    name: str
    version: str
    digest: str
    context_tokens: int
    loaded: bool = True
    exact: bool = False
    tokens_per_second: float = 0.0
    embeds: int = 0


class HealthReport(Message, frozen=True):
    """Health.Report. capacity: slots; load: slots in use; queue: requests waiting; rates are of the last minute.

    prefixes: keyed digests of beginnings that it has computed lately (tetherd.gateway.prefixes), the newest last.
    """

    worker_id: PeerId
    capacity: int
    gpu_class: str
    model_cache: tuple[ServedModel, ...]
    load: int = 0
    queue: int = 0
    tokens_per_second: float = 0.0
    free_bytes: int = 0
    build_tags: dict[str, str] = msgspec.field(default_factory=dict)
    prefixes: tuple[bytes, ...] = ()


class Presence(Message, frozen=True):
    """What a member says of itself on its region's presence topic. health: only of workers."""

    region: str
    roles: tuple[Role, ...]
    addresses: tuple[str, ...]
    state: Literal["ready", "draining", "leaving"] = "ready"
    version: str = ""
    health: HealthReport | None = None


class Heartbeat(Message, frozen=True):
    """A candidate's sign of life on its region's control topic. ranked: candidates it believes alive, best first."""

    region: str
    ranked: tuple[PeerId, ...] = ()


class RosterRequest(Message, frozen=True):
    """region empty: a few candidates of every region; since: the revision of the last answer of the same node."""

    region: str
    since: int = 0


class Roster(Message, frozen=True):
    """The announcements a candidate holds for a region; the asker checks every one itself.

    Besides presences, the last heartbeat of a candidate: whom it believes to lead. gone: for whom the teller no
    longer vouches; revision: for the next since; more: whether to ask again at once.
    """

    members: tuple[Announcement, ...]
    gone: tuple[PeerId, ...] = ()
    revision: int = 0
    more: bool = False


class Ack(Message, frozen=True):
    """Nothing but: done."""


# ── Admission to the swarm ───────────────────────────────────────────────────────────────────────────────────────


class EnrolRequest(Message, frozen=True):
    """A guest's wish. The issuer answers within what the invite grants."""

    enc_key: bytes
    region: str
    roles: tuple[Role, ...]


class EnrolAnswer(Message, frozen=True):
    """credential: encoded; issuer: an authority-signed issuer certificate, if the new node is to admit others."""

    credential: bytes
    issuer: bytes = b""


class RenewRequest(Message, frozen=True):
    """A member asks for its own certificate with new dates; an issuer answers as to `EnrolRequest`."""


# ── Placement ────────────────────────────────────────────────────────────────────────────────────────────────────


class PlacementRequest(Message, frozen=True):
    """What a gateway tells the orchestrator: no prompt, nothing derived from it in clear.

    job: 32 bytes; request_mac: keyed, 32 bytes; max_prompt_tokens: an upper bound, from the byte length.
    last_attempt: the highest that the gateway has seen, 0 for none; exclude: workers that failed this job; cause: why
    the last attempt ended. key_id, proof: of the tenant's API key (tetherd.tenants.keys), empty without one. input: the
    tenant's keyed digest of what is asked, 16 bytes, or empty. exact: a worker that is, before one that is not: the
    client gave a seed, or an answer goes on. prefixes: keyed digests of the prompt's beginnings, the shortest first.
    """

    job: bytes
    tenant_id: str
    model_id: str
    version: str
    max_prompt_tokens: int
    max_tokens: int
    request_mac: bytes
    retry_token: str
    deadline_s: float
    trace_id: str = ""
    last_attempt: int = 0
    exclude: tuple[PeerId, ...] = ()
    cause: str = ""
    key_id: str = ""
    proof: bytes = b""
    input: bytes = b""
    exact: bool = False
    prefixes: tuple[bytes, ...] = ()


class Grant(Message, frozen=True):
    """Leave to use one slot of one worker for one attempt of one job. not_after: unix seconds, 15 s from issue."""

    job: bytes
    attempt: int
    grant_id: bytes
    tenant: str
    gateway: PeerId
    worker: PeerId
    worker_incarnation: int
    manifest_digest: str
    request_mac: bytes
    max_prompt_tokens: int
    max_tokens: int
    not_after: float


class SignedGrant(Message, frozen=True):
    """grant: an encoded `Grant`; signature: over it, domain "grant"; credential: of the orchestrator that signed."""

    grant: bytes
    signature: bytes
    credential: bytes


class Placement(Message, frozen=True):
    """The orchestrator's answer. worker_credential: its certified key is sealed to; rates: of the tenant's minute."""

    grant: SignedGrant
    worker_credential: bytes
    worker_addresses: tuple[str, ...]
    region: str
    model: ServedModel
    rates: Rates | None = None


class QueuePlace(Message, frozen=True):
    """A gateway asks how far the placement of a job has come, and is told: 1 is next, 0 does not wait there."""

    job: bytes
    position: int = 0


class ReserveRequest(Message, frozen=True):
    """An orchestrator asks a worker for a slot, held until not_after (unix seconds) for whoever brings the grant."""

    job: bytes
    attempt: int
    grant_id: bytes
    manifest_digest: str
    max_tokens: int
    not_after: float


class ReserveAnswer(Message, frozen=True):
    incarnation: int
    load: int


class ReleaseRequest(Message, frozen=True):
    """A gateway gives an unused reservation back, or an orchestrator one that lost."""

    job: bytes
    grant_id: bytes


class LeaseRenewal(Message, frozen=True):
    """A worker is still at it: the ledger may extend the job's lease."""

    job: bytes
    attempt: int
    grant_id: bytes


class Receipt(Message, frozen=True):
    """What one attempt did. position: tokens of the answer proven, from the start; chain: hash of its last chunk."""

    job: bytes
    attempt: int
    grant_id: bytes
    worker: PeerId
    prompt_tokens: int
    first_position: int
    position: int
    finish: str
    chain: bytes
    build_tag: str = ""
    resumed: bool = False


class SignedReceipt(Message, frozen=True):
    """receipt: an encoded `Receipt`; both signatures over it, domain "receipt"."""

    receipt: bytes
    worker_signature: bytes
    gateway_signature: bytes = b""


JobEnd = Literal["done", "failed", "cancelled", "dead_lettered"]


class Settlement(Message, frozen=True):
    """The end of a job, from its gateway to the ledger. receipts: of every attempt that sent one.

    input: as in `PlacementRequest`, if the job is a dead letter.
    """

    job: bytes
    attempt: int
    end: JobEnd
    receipts: tuple[SignedReceipt, ...] = ()
    first_token_s: float | None = None
    cause: str = ""
    input: bytes = b""


class RetryOrder(Message, frozen=True):
    """An orchestrator asks the gateway that holds a dead letter's input to try it again."""

    job: bytes


class RetryAnswer(Message, frozen=True):
    """job: of the new try."""

    job: bytes


class LedgerRows(Message, frozen=True):
    """Copies of jobs' rows for another candidate of the region; each packed by the ledger itself."""

    rows: tuple[bytes, ...]


class LedgerSince(Message, frozen=True):
    """A candidate asks what changed. since: ledger seconds; after: the last job id of the page before, b"" at first."""

    since: float
    after: bytes = b""


class RegisterRequest(Message, frozen=True):
    """A candidate asks for another one's tenants and keys. digest: of its own register, 32 bytes."""

    digest: bytes


class RegisterAnswer(Message, frozen=True):
    """records: an encoded register (tetherd.tenants.register.Records), empty if both agree."""

    records: bytes


# ── Inference ────────────────────────────────────────────────────────────────────────────────────────────────────


class InferRequest(Message, frozen=True):
    """Infer.Request: opens a call to the worker. input: sealed; trace_id: a W3C traceparent or empty."""

    tenant_id: str
    model_id: str
    version: str
    input: bytes
    correlation_id: str
    retry_token: str
    trace_id: str
    grant: SignedGrant


class InferChunk(Message, frozen=True):
    """Infer.Chunk. seq: from 0, gapless in an attempt; payload: a sealed `ChunkBody`; prev_hash: over ciphertext."""

    correlation_id: str
    seq: int
    payload: bytes
    done: bool
    attempt: int
    prev_hash: bytes


ENROL: Final = Method("enrol", EnrolRequest, EnrolAnswer, guests=True)
RENEW: Final = Method("renew", RenewRequest, EnrolAnswer)
PRESENCE: Final = Method("presence", Announcement, Announcement)
HEALTH: Final = Method("health", Announcement, Ack)
ROSTER: Final = Method("roster", RosterRequest, Roster)
PLACE: Final = Method("place", PlacementRequest, Placement)
POSITION: Final = Method("position", QueuePlace, QueuePlace)
RESERVE: Final = Method("reserve", ReserveRequest, ReserveAnswer)
RELEASE: Final = Method("release", ReleaseRequest, Ack)
RENEW_LEASE: Final = Method("renew-lease", LeaseRenewal, Ack)
SETTLE: Final = Method("settle", Settlement, Ack)
RECEIPT: Final = Method("receipt", SignedReceipt, Ack)
RETRY_LETTER: Final = Method("retry-letter", RetryOrder, RetryAnswer)
COPY_ROWS: Final = Method("copy-rows", LedgerRows, Ack)
CATCH_UP: Final = Method("catch-up", LedgerSince, LedgerRows, priority=1)
REGISTER: Final = Method("register", RegisterRequest, RegisterAnswer)
INFER: Final = Method("infer", InferRequest, InferChunk, priority=1)
