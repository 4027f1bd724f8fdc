"""Nodes of a `MemoryNetwork` for the tests of this folder; a passport is one word here."""

from __future__ import annotations

from p2p.errors import CERTIFICATE_INVALID, TetherError
from p2p.identity import PeerId
from p2p.membership import Admission, Certificate, Guest, Invite, Member, SwarmId
from p2p.memory import MemoryNetwork, MemoryNode
from p2p.transport import Network, PeerAddress

A, B, C, D = PeerId("A"), PeerId("B"), PeerId("C"), PeerId("D")
SWARM = SwarmId("aa" * 32)


def admit(passport: bytes, peer: PeerId) -> Admission:
    """A passport is one word here: member, guest, or anything else."""
    match passport:
        case b"member":
            return Member(Certificate(SWARM, peer, b"", (), ("eu",), b"", 0.0, 1.0), b"", peer)
        case b"guest":
            return Guest(peer, Invite(SWARM, b"", (), (), 0.0, 1.0), peer)
        case _:
            raise TetherError(CERTIFICATE_INVALID, "Not a passport.")


def member(world: MemoryNetwork, peer: PeerId) -> MemoryNode:
    return world.node(peer, lambda: b"member", admit)


def guest(world: MemoryNetwork, peer: PeerId) -> MemoryNode:
    return world.node(peer, lambda: b"guest", admit)


def address(node: Network) -> PeerAddress:
    return PeerAddress(node.peer_id, node.addresses())
