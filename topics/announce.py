"""Announcements: signed, expiring, bound to one topic, good once.

What an announcement proves is checked in this order, cheapest first; nobody looks at the payload before the
signature holds:

    size -> topic -> ttl, time -> certificate (the node's, of this swarm) -> signature -> region -> payload -> news

Time: an announcement is good from issued_at - CLOCK_SKEW_S to issued_at + ttl + CLOCK_SKEW_S. Certificates allow
members five minutes of clock error, so announcements allow the same, or a node with a wrong clock would be a
member whom nobody can see. The allowance costs little: whatever an old announcement says, a later (incarnation,
seq) of its node overrules it, and how long a member counts as alive runs from the arrival here, on our clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from p2p.errors import ANNOUNCE_INVALID, TetherError
from p2p.identity import NodeKey, PeerId, public_key_of, verify
from p2p.membership import CLOCK_SKEW_S, Member, Papers, SwarmId, check_credential
from p2p.messages import Announcement, Envelope, HealthReport, Heartbeat, Presence
from p2p.wire import decode, encode
from topics.bounded import Recent
from topics.names import Topic, check_model, check_version, parse

MAX_PAYLOAD_BYTES: Final = 16 * 1024
"""A worker with 64 models needs about 10 KiB."""
MAX_CREDENTIAL_BYTES: Final = 4 * 1024
"""A chain of two certificates is about 700 bytes."""
MAX_TTL_S: Final = 120.0
"""Three intervals of the slowest reporter: a worker among 2,000 reports every 40 s."""
MAX_COUNT: Final = 1_000_000
"""Slots, load and queue beyond this are a lie that would skew placement."""
MAX_ADDRESSES: Final = 16
MAX_ADDRESS_CHARS: Final = 256
MAX_MODELS: Final = 64
MAX_RANKED: Final = 64
MAX_NODES: Final = 10_000
"""Nodes whose last numbers are remembered, as many as a view holds."""
RECHECK_S: Final = 60.0
"""How long a checked credential is trusted before its dates are looked at again."""
WINDOW: Final = 64
"""How far behind the newest seq an unseen one may come: meshes deliver out of order."""

Reason = Literal[
    "oversized", "topic", "ttl", "expired", "future", "uncertified", "forged", "region", "roles", "malformed",
    "bounds", "replayed",
]  # fmt: skip
"""Why an announcement was dropped; metrics count by these words."""


class Refused(TetherError):
    """An announcement that must change nobody's view: ANNOUNCE_INVALID, with the reason in one word."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(ANNOUNCE_INVALID, detail)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Checked:
    """An announcement that holds. member: whose it is; announcement: as it came, to pass on to others."""

    member: Member
    topic: Topic
    message: Presence | Heartbeat
    announcement: Announcement

    @property
    def peer(self) -> PeerId:
        return self.member.peer

    @property
    def envelope(self) -> Envelope:
        return self.announcement.envelope

    @property
    def number(self) -> tuple[int, int]:
        """(incarnation, seq): of two announcements on one topic, the greater is the newer."""
        return self.envelope.incarnation, self.envelope.seq


def sign(
    key: NodeKey, topic: Topic, payload: bytes, *, incarnation: int, seq: int, ttl_s: float, now: float
) -> Envelope:
    """Sign a payload for one topic. now: unix seconds."""
    bare = Envelope(topic.name, payload, key.node_id, incarnation, seq, now, ttl_s)
    return msgspec.structs.replace(bare, signature=key.sign("announce", encode(bare)))


class Author:
    """Signs what one node has to say, with a number of its own for each topic."""

    def __init__(self, key: NodeKey, papers: Papers, incarnation: int) -> None:
        self._key = key
        self._papers = papers
        self._incarnation = incarnation
        self._last: dict[Topic, int] = {}

    def announce(
        self, topic: Topic, message: Presence | Heartbeat, *, ttl_s: float, now: float
    ) -> Announcement:
        """Sign the next announcement on a topic. now: unix seconds."""
        seq = self._last[topic] = self._last.get(topic, 0) + 1
        envelope = sign(
            self._key, topic, encode(message), incarnation=self._incarnation, seq=seq, ttl_s=ttl_s, now=now
        )
        return Announcement(envelope, self._papers.credential)


class Checker:
    """Decides which announcements of a swarm hold. dropped: called with the reason of each that does not."""

    def __init__(self, swarm_id: SwarmId, dropped: Callable[[Reason], None] = lambda reason: None) -> None:
        self._swarm_id = swarm_id
        self._dropped = dropped
        self._members: Recent[bytes, tuple[Member, float]] = Recent(MAX_NODES)
        self._replays = ReplayGuard(2 * MAX_NODES)

    def check(self, announcement: Announcement, topic: Topic | None, now: float) -> Checked:
        """Check news and note that it came. topic: as for verify. Raises Refused."""
        checked = self.verify(announcement, topic, now)
        self.admit(checked)
        return checked

    def verify(self, announcement: Announcement, topic: Topic | None, now: float) -> Checked:
        """Check all but the novelty. topic: the one it came on, None if any is right. Raises Refused."""
        try:
            return self._verify(announcement, topic, now)
        except Refused as refusal:
            self._dropped(refusal.reason)
            raise

    def admit(self, checked: Checked) -> None:
        """Note a verified announcement. Raises Refused if it was here before."""
        self.refuse_replay(checked)
        self._replays.admit(checked.peer, checked.topic, checked.number)

    def refuse_replay(self, checked: Checked) -> None:
        """Raises Refused if a verified announcement was here before; notes nothing."""
        if self._replays.knows(checked.peer, checked.topic, checked.number):
            raise self.refusal("replayed", "The announcement was here before.")

    def refusal(self, reason: Reason, detail: str) -> Refused:
        """Count a drop, and return the error to raise for it."""
        self._dropped(reason)
        return Refused(reason, detail)

    def _verify(self, announcement: Announcement, topic: Topic | None, now: float) -> Checked:
        envelope = announcement.envelope
        if len(envelope.payload) > MAX_PAYLOAD_BYTES or len(announcement.credential) > MAX_CREDENTIAL_BYTES:
            raise Refused("oversized", f"The announcement is over {MAX_PAYLOAD_BYTES} bytes.")
        claimed = _topic_of(envelope, topic)
        _check_time(envelope, now)
        member = self._member(announcement.credential, now)
        if member.peer != envelope.node_id:
            raise Refused("forged", "The certificate is another node's.")
        bare = encode(msgspec.structs.replace(envelope, signature=b""))
        if not verify(public_key_of(member.peer), "announce", bare, envelope.signature):
            raise Refused("forged", "The signature is not the node's.")
        if claimed.region not in member.certificate.regions:
            raise Refused("region", f"The node is not certified for region {claimed.region}.")
        return Checked(member, claimed, _read_payload(envelope, claimed, member), announcement)

    def _member(self, credential: bytes, now: float) -> Member:
        known = self._members.get(credential)
        if known is not None and now - RECHECK_S <= known[1] <= now:
            return known[0]
        try:
            member = check_credential(credential, self._swarm_id, now)
        except TetherError as error:
            raise Refused("uncertified", error.detail) from error
        self._members.put(credential, (member, now))
        return member


class ReplayGuard:
    """Remembers, for each node and topic, the newest number and which of the WINDOW before it came.

    The sliding window of IPsec (RFC 4303, 3.4.3): an unseen seq a little behind the newest is late, not a replay,
    so a mesh that delivers out of order costs nobody its score.
    """

    def __init__(self, limit: int) -> None:
        self._seen: Recent[tuple[PeerId, Topic], tuple[int, int, int]] = Recent(limit)

    def knows(self, peer: PeerId, topic: Topic, number: tuple[int, int]) -> bool:
        incarnation, seq = number
        seen = self._seen.get((peer, topic))
        if seen is None or incarnation > seen[0]:
            return False
        behind = seen[1] - seq
        return incarnation < seen[0] or behind >= WINDOW or (behind >= 0 and bool(seen[2] >> behind & 1))

    def admit(self, peer: PeerId, topic: Topic, number: tuple[int, int]) -> bool:
        """Note a number. Returns False, and notes nothing, if it was here before or is too old to tell."""
        if self.knows(peer, topic, number):
            return False
        incarnation, seq = number
        seen = self._seen.get((peer, topic))
        if seen is None or incarnation > seen[0]:
            self._seen.put((peer, topic), (incarnation, seq, 1))
            return True
        newest = max(seq, seen[1])
        mask = seen[2] << (newest - seen[1]) if newest - seen[1] < WINDOW else 0
        self._seen.put((peer, topic), (incarnation, newest, (mask | 1 << (newest - seq)) & (1 << WINDOW) - 1))
        return True


def _topic_of(envelope: Envelope, topic: Topic | None) -> Topic:
    if topic is not None:
        if envelope.topic != topic.name:
            raise Refused("topic", f"The announcement is not for {topic.name}.")
        return topic
    try:
        claimed = parse(envelope.topic)
    except TetherError as error:
        raise Refused("topic", error.detail) from error
    return claimed


def _check_time(envelope: Envelope, now: float) -> None:
    """Every comparison is written so that NaN fails it."""
    if not 0.0 < envelope.ttl <= MAX_TTL_S:
        raise Refused("ttl", f"The ttl has to be within {MAX_TTL_S:.0f} s.")
    if not envelope.issued_at <= now + CLOCK_SKEW_S:
        raise Refused("future", "The announcement is from the future: a clock is wrong.")
    if not now <= envelope.issued_at + envelope.ttl + CLOCK_SKEW_S:
        raise Refused("expired", "The announcement has expired.")
    if not (0 <= envelope.incarnation < 2**63 and 0 < envelope.seq < 2**63):
        raise Refused("bounds", "The announcement's numbers are out of bounds.")


def _read_payload(envelope: Envelope, topic: Topic, member: Member) -> Presence | Heartbeat:
    try:
        match topic.kind:
            case "presence":
                presence = decode(envelope.payload, Presence)
                _check_presence(presence, topic, member)
                return presence
            case "control":
                heartbeat = decode(envelope.payload, Heartbeat)
                _check_heartbeat(heartbeat, topic, member)
                return heartbeat
            case "models" | "catalogue":
                raise Refused("topic", f"Nodes do not announce themselves on a {topic.kind} topic.")
    except TetherError as error:
        if isinstance(error, Refused):
            raise
        raise Refused("malformed", error.detail) from error


def _check_presence(presence: Presence, topic: Topic, member: Member) -> None:
    if presence.region != topic.region:
        raise Refused("region", "The announcement names another region than its topic.")
    if not presence.roles or not set(presence.roles) <= set(member.certificate.roles):
        raise Refused("roles", "The node announces a role that it is not certified for.")
    addresses = presence.addresses
    if len(addresses) > MAX_ADDRESSES or any(len(address) > MAX_ADDRESS_CHARS for address in addresses):
        raise Refused("bounds", "The announcement's addresses are out of bounds.")
    if presence.health is not None:
        if "worker" not in presence.roles or presence.health.worker_id != member.peer:
            raise Refused("roles", "The health report is not of this worker.")
        _check_health(presence.health)


def _check_health(health: HealthReport) -> None:
    counts = (health.capacity, health.load, health.queue)
    rates = (health.tokens_per_second, float(health.free_bytes))
    if not all(0 <= count <= MAX_COUNT for count in counts) or len(health.model_cache) > MAX_MODELS:
        raise Refused("bounds", "The health report is out of bounds.")
    if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
        raise Refused("bounds", "The health report is out of bounds.")
    for served in health.model_cache:
        check_model(served.name)
        check_version(served.version)
        speed = served.tokens_per_second
        if not 0 < served.context_tokens <= 100 * MAX_COUNT or not (math.isfinite(speed) and speed >= 0):
            raise Refused("bounds", "The health report is out of bounds.")


def _check_heartbeat(heartbeat: Heartbeat, topic: Topic, member: Member) -> None:
    if heartbeat.region != topic.region:
        raise Refused("region", "The heartbeat names another region than its topic.")
    if "orchestrator" not in member.certificate.roles:
        raise Refused("roles", "Only certified orchestrators send heartbeats.")
    if len(heartbeat.ranked) > MAX_RANKED:
        raise Refused("bounds", "The heartbeat ranks too many nodes.")
