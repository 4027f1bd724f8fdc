"""What is said about a node in its LAN, and what is taken from what others say. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from p2p.errors import TetherError
from p2p.host.addresses import parse
from p2p.host.mdns.dns import (
    ANY,
    PTR,
    TXT,
    DnsFault,
    DnsMessage,
    Question,
    Record,
    decode,
    encode,
    name_bytes,
    texts,
    texts_bytes,
)
from p2p.identity import PeerId, public_key_of
from p2p.membership import SwarmId
from p2p.transport import PeerAddress

ADDRESS_KEY: Final = "dnsaddr="
MAX_PEERS: Final = 4
"""Of one message: a node tells only of itself; somebody else's implementation may gather a few."""


@dataclass(frozen=True, slots=True)
class Heard:
    """asked: somebody wants to know who is there; peers: who says that they are."""

    asked: bool = False
    peers: tuple[PeerAddress, ...] = ()


class Service:
    """One node's. instance: 32 to 63 random characters, as libp2p wants it, drawn anew at each start."""

    def __init__(self, swarm_id: SwarmId, own: PeerId, instance: str) -> None:
        self.name = service_name(swarm_id)
        self._own = own
        self._instance = f"{instance}.{self.name}"

    def question(self) -> bytes:
        return encode(DnsMessage(False, (Question(self.name, PTR),)))

    def announcement(self, host: str, port: int) -> bytes:
        """host: of the interface that it goes out on; the others are nobody's business there."""
        address = f"{ADDRESS_KEY}/ip4/{host}/tcp/{port}/p2p/{self._own}"
        return encode(
            DnsMessage(
                True,
                records=(
                    Record(self.name, PTR, name_bytes(self._instance)),
                    Record(self._instance, TXT, texts_bytes((address,)), flush=True),
                ),
            )
        )

    def hear(self, data: bytes, source: str) -> Heard:
        """Read a datagram. An address counts only if it is its sender's: nobody has us dial a third machine."""
        try:
            message = decode(data)
            if not message.response:
                kinds = [question.kind for question in message.questions if question.name == self.name]
                return Heard(asked=PTR in kinds or ANY in kinds)
            found: dict[PeerId, list[str]] = {}
            for record in message.records:
                if record.kind == TXT and record.name.endswith(f".{self.name}") and record.ttl_s:
                    for text in texts(record.data):
                        self._take(text, source, found)
        except DnsFault:
            return Heard()
        peers = [PeerAddress(peer, tuple(addresses)) for peer, addresses in found.items()]
        return Heard(peers=tuple(peers[:MAX_PEERS]))

    def _take(self, text: str, source: str, found: dict[PeerId, list[str]]) -> None:
        address, _, peer = text.removeprefix(ADDRESS_KEY).partition("/p2p/")
        try:
            target = parse(address)
            public_key_of(PeerId(peer))
        except TetherError:
            return
        if text.startswith(ADDRESS_KEY) and peer != self._own and target.port and target.host == source:
            found.setdefault(PeerId(peer), []).append(address)


def service_name(swarm_id: SwarmId) -> str:
    """Tells a swarm's members each other, and nobody else which swarm it is."""
    digest = hashlib.blake2b(bytes.fromhex(swarm_id), digest_size=6, person=b"tether-mdns")
    return f"_t{digest.hexdigest()}._udp.local"
