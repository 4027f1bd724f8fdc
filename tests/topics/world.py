"""A swarm's people for tests: an authority that certifies, nodes that announce."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from p2p.identity import NodeKey, PeerId
from p2p.membership import Issuer, Member, Papers, appoint, check_credential, swarm_id_of
from p2p.messages import ROLES, Announcement, HealthReport, Heartbeat, Presence, Role, ServedModel
from topics.announce import Author
from topics.names import Topic, presence

NOW = 1_700_000_000.0
AUTHORITY = NodeKey(b"\x01" * 32)
SWARM = swarm_id_of(AUTHORITY)
ISSUER = Issuer(AUTHORITY, SWARM, appoint(AUTHORITY, AUTHORITY.node_id, serial=b"i", now=NOW))
TINY = ServedModel("tiny", "1", "d" * 64, 512)


@dataclass(frozen=True)
class Person:
    """A certified node that speaks for itself."""

    key: NodeKey
    member: Member
    author: Author

    @property
    def peer(self) -> PeerId:
        return self.key.node_id

    def says(
        self,
        message: Presence | Heartbeat,
        topic: Topic | None = None,
        *,
        ttl_s: float = 30.0,
        now: float = NOW,
    ) -> Announcement:
        return self.author.announce(topic or presence(message.region), message, ttl_s=ttl_s, now=now)


def serial_of(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def person(
    name: str,
    *,
    roles: tuple[Role, ...] = ROLES,
    regions: tuple[str, ...] = ("eu",),
    serial: bytes | None = None,
    incarnation: int = 1,
    issuer: Issuer = ISSUER,
    now: float = NOW,
) -> Person:
    key = NodeKey(hashlib.sha256(name.encode()).digest())
    drawn = serial_of(name) if serial is None else serial
    credential = issuer.certify(key.node_id, key.sealing_public, roles, regions, serial=drawn, now=now)
    member = check_credential(credential, issuer.swarm_id, now)
    return Person(key, member, Author(key, Papers(member), incarnation))


def here(region: str = "eu", roles: tuple[Role, ...] = ("orchestrator",), **changes: object) -> Presence:
    """A presence of a node in good health."""
    plain = Presence(region, roles, ("/ip4/127.0.0.1/tcp/1",))
    return msgspec.structs.replace(plain, **changes)


def health(worker: PeerId, **changes: object) -> HealthReport:
    return msgspec.structs.replace(HealthReport(worker, 4, "cpu", (TINY,)), **changes)
