"""Swarms made for a test: an authority, an issuer, and nodes with keys and certificates."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from p2p.identity import NodeKey, PeerId
from p2p.membership import (
    Admission,
    Issuer,
    SwarmId,
    Ticket,
    admit,
    appoint,
    guest_passport,
    member_passport,
    swarm_id_of,
)
from p2p.messages import ROLES, Role


@dataclass(frozen=True, slots=True)
class MadeSwarm:
    """keys and credentials: of node i; the first node is the issuer. made_at: unix seconds."""

    authority: NodeKey
    issuer: Issuer
    keys: tuple[NodeKey, ...]
    credentials: tuple[bytes, ...]
    made_at: float

    @property
    def swarm_id(self) -> SwarmId:
        return swarm_id_of(self.authority)

    def passport(self, node: int) -> bytes:
        return member_passport(self.credentials[node])

    def ticket(
        self, *, addresses: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/1",), ttl_s: float = 3_600.0
    ) -> Ticket:
        secret = _seed("invite", len(self.keys))
        invite = self.issuer.invite(ROLES, ("eu",), secret=secret, ttl_s=ttl_s, uses=1, now=self.made_at)
        return Ticket(self.swarm_id, addresses, invite, secret)

    def guest(self, peer: PeerId) -> bytes:
        """The passport of a peer that holds nothing but a ticket."""
        return guest_passport(self.ticket(), peer)

    def admit(self, passport: bytes, peer: PeerId) -> Admission:
        return admit(passport, peer, self.swarm_id, self.made_at)

    def admit_at(self, now: float) -> Callable[[bytes, PeerId], Admission]:
        """Like admit, for a node whose clock shows now."""
        return lambda passport, peer: admit(passport, peer, self.swarm_id, now)


def make_swarm(
    count: int, *, name: str = "swarm", roles: tuple[Role, ...] = ROLES, now: float | None = None
) -> MadeSwarm:
    """A swarm of count nodes. The same name makes the same keys, so a failure repeats itself."""
    made_at = time.time() if now is None else now
    authority = NodeKey(_seed(name, 0))
    keys = tuple(NodeKey(_seed(name, 1 + node)) for node in range(count))
    appointed = keys[0] if keys else authority
    certificate = appoint(authority, appointed.node_id, serial=_seed(name, 0)[:16], now=made_at)
    issuer = Issuer(appointed, swarm_id_of(authority), certificate)
    credentials = tuple(
        issuer.certify(
            key.node_id, key.sealing_public, roles, ("eu",), serial=_seed(name, 1 + node)[:16], now=made_at
        )
        for node, key in enumerate(keys)
    )
    return MadeSwarm(authority, issuer, keys, credentials, made_at)


def _seed(name: str, number: int) -> bytes:
    return hashlib.sha256(f"tests/{name}/{number}".encode()).digest()
