"""Nodes of one swarm for sides in different processes: they share nothing but the authority's key below."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from p2p.garbage import collect_rarely
from p2p.host import HostSettings, open_host
from p2p.host.handshake import Admit, Gate
from p2p.host.host import Host
from p2p.host.settings import DEFAULTS
from p2p.identity import NodeKey, PeerId
from p2p.membership import Issuer, admit, appoint, member_passport, swarm_id_of
from p2p.transport import PeerAddress

AUTHORITY: Final = NodeKey(b"benchmark authority key, no use.")
SWARM_ID: Final = swarm_id_of(AUTHORITY)
LOOPBACK: Final = ("/ip4/127.0.0.1/tcp/0",)


@asynccontextmanager
async def open_member(
    *, listen: Sequence[str] = LOOPBACK, settings: HostSettings = DEFAULTS, key: NodeKey | None = None
) -> AsyncIterator[Host]:
    """A host with a certificate of its own, as a daemon opens it."""
    collect_rarely()
    key = key or NodeKey(os.urandom(32))
    passport, admits = _papers(key)
    async with open_host(
        key, listen=listen, swarm_id=SWARM_ID, passport=passport, admit=admits, settings=settings
    ) as host:
        yield host


def member_gate() -> Gate:
    """A member's side of the handshake, for one that means no good behind it."""
    key = NodeKey(os.urandom(32))
    return Gate(key, *_papers(key))


def _papers(key: NodeKey) -> tuple[Callable[[], bytes], Admit]:
    now = time.time()
    issuer = Issuer(AUTHORITY, SWARM_ID, appoint(AUTHORITY, AUTHORITY.node_id, serial=bytes(16), now=now))
    credential = issuer.certify(
        key.node_id, key.sealing_public, ("gateway",), ("bench",), serial=os.urandom(16), now=now
    )
    return lambda: member_passport(credential), lambda shown, peer: admit(shown, peer, SWARM_ID, time.time())


def described(host: Host) -> dict[str, object]:
    """For a side's hello; `reached` reads it on the other side."""
    return {"peer": host.peer_id, "addresses": list(host.addresses())}


def reached(peer: str, addresses: Sequence[str]) -> PeerAddress:
    return PeerAddress(PeerId(peer), tuple(addresses))
