"""The DHT's messages as libp2p writes them. https://github.com/libp2p/specs/tree/master/kad-dht"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from libp2p.kad_dht.pb.kademlia_pb2 import Message

from p2p.errors import FRAME_INVALID, TetherError
from p2p.host.addresses import from_wire, to_wire
from p2p.host.kad.distance import peer_of, raw_id
from p2p.identity import public_key_of
from p2p.transport import PeerAddress
from p2p.values import MAX_VALUE_BYTES

PUT_VALUE: Final = Message.PUT_VALUE
GET_VALUE: Final = Message.GET_VALUE
FIND_NODE: Final = Message.FIND_NODE
GET_PROVIDERS: Final = Message.GET_PROVIDERS
ADD_PROVIDER: Final = Message.ADD_PROVIDER
PING: Final = Message.PING

MAX_BYTES: Final = 64 * 1024 + MAX_VALUE_BYTES
"""A value; 20 nearer peers and 64 providers with 16 addresses each stay below the rest."""
MAX_PEERS: Final = 128
"""That are read from one answer."""
MAX_KEY_BYTES: Final = 128


@dataclass(frozen=True, slots=True)
class Note:
    """One message, request or answer.

    kind: one of the constants above; key: a peer's id in bytes for FIND_NODE, text for values. value: what is kept
    under the key; None: nothing.
    """

    kind: int
    key: bytes = b""
    nearer: tuple[PeerAddress, ...] = ()
    providers: tuple[PeerAddress, ...] = ()
    value: bytes | None = None


def write(note: Note) -> bytes:
    message = Message(type=Message.MessageType.Name(note.kind), key=note.key)
    for parts, peers in ((message.closerPeers, note.nearer), (message.providerPeers, note.providers)):
        for peer in peers:
            parts.add(id=raw_id(peer.peer), addrs=to_wire(peer.addresses), connection=Message.CAN_CONNECT)
    if note.value is not None:
        message.record.key, message.record.value = note.key, note.value
    return message.SerializeToString()


def read(data: bytes) -> Note:
    """Raises TetherError(FRAME_INVALID). Peers that are none, or have no address, are left out."""
    try:
        message = Message.FromString(data)
    except DecodeError as error:
        raise TetherError(FRAME_INVALID, "These bytes are no message of the DHT.") from error
    if len(message.key) > MAX_KEY_BYTES:
        raise TetherError(FRAME_INVALID, "A key of the DHT is too long.")
    value = message.record.value if message.HasField("record") else None
    if value is not None and (message.record.key != message.key or len(value) > MAX_VALUE_BYTES):
        raise TetherError(FRAME_INVALID, "A value of the DHT is another key's, or too long.")
    return Note(message.type, message.key, _peers(message.closerPeers), _peers(message.providerPeers), value)


def _peers(parts: Sequence[Message.Peer]) -> tuple[PeerAddress, ...]:
    return tuple(_known(parts[:MAX_PEERS]))


def _known(parts: Iterable[Message.Peer]) -> Iterable[PeerAddress]:
    for part in parts:
        peer = peer_of(part.id)
        try:
            public_key_of(peer)
        except TetherError:
            continue
        addresses = from_wire(part.addrs)
        if addresses:
            yield PeerAddress(peer, tuple(addresses))
