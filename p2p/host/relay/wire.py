"""The messages of hop and stop as libp2p writes them, and one number of ours that others skip: how busy a relay is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, StopMessage

from p2p.errors import FRAME_INVALID, TetherError
from p2p.host.addresses import from_wire, to_wire
from p2p.host.kad.distance import MAX_ID_BYTES, peer_of, raw_id
from p2p.identity import PeerId, public_key_of

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"
MAX_BYTES: Final = 4096
"""The specification's own limit."""
LOAD_FIELD: Final = 1000
"""Of a HopMessage: a varint, in percent."""

RESERVE, CONNECT, STATUS = range(3)
"""Kinds of a HopMessage."""
STOP_CONNECT, STOP_STATUS = range(2)


class Status(IntEnum):
    """What a relay, or a target, answers."""

    UNUSED = 0
    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class Limit:
    """Of one circuit; 0: none."""

    duration_s: int = 0
    data_bytes: int = 0


NO_LIMIT: Final = Limit()


@dataclass(frozen=True, slots=True)
class Hop:
    """Between a relay and who uses it. expires: unix seconds on the relay's clock; load: 0 to 1."""

    kind: int
    status: Status = Status.UNUSED
    peer: PeerId | None = None
    expires: int = 0
    addresses: tuple[str, ...] = ()
    limit: Limit = NO_LIMIT
    load: float = 0.0


@dataclass(frozen=True, slots=True)
class Stop:
    """Between a relay and the target of a circuit. peer: the source."""

    kind: int
    status: Status = Status.UNUSED
    peer: PeerId | None = None
    limit: Limit = NO_LIMIT


def write_hop(hop: Hop) -> bytes:
    message = HopMessage()
    message.type = hop.kind  # type: ignore[assignment]  # the stubs have a type of their own for each enum
    _fill(message, hop)
    if hop.expires:
        message.reservation.expire = hop.expires
        message.reservation.addrs.extend(to_wire(hop.addresses))
    percent = round(100 * hop.load)
    return message.SerializeToString() + (_LOAD_KEY + bytes([percent]) if percent else b"")


def read_hop(data: bytes) -> Hop:
    """Raises TetherError(FRAME_INVALID)."""
    message = _parsed(HopMessage.FromString, data)
    return Hop(
        message.type,
        _status(message.status),
        _peer(message.peer.id) if message.HasField("peer") else None,
        message.reservation.expire,
        tuple(from_wire(message.reservation.addrs)),
        Limit(message.limit.duration, message.limit.data),
        _load(message),
    )


def write_stop(stop: Stop) -> bytes:
    message = StopMessage()
    message.type = stop.kind  # type: ignore[assignment]
    _fill(message, stop)
    return message.SerializeToString()


def read_stop(data: bytes) -> Stop:
    """Raises TetherError(FRAME_INVALID)."""
    message = _parsed(StopMessage.FromString, data)
    return Stop(
        message.type,
        _status(message.status),
        _peer(message.peer.id) if message.HasField("peer") else None,
        Limit(message.limit.duration, message.limit.data),
    )


_Parsed = TypeVar("_Parsed")
_LOAD_KEY: Final = bytes([LOAD_FIELD << 3 & 0x7F | 0x80, LOAD_FIELD << 3 >> 7])
"""As protobufs write it before a varint."""


def _parsed(parse: Callable[[bytes], _Parsed], data: bytes) -> _Parsed:
    try:
        return parse(data)
    except DecodeError as error:
        raise TetherError(FRAME_INVALID, "These bytes are no message of a relay.") from error


def _fill(message: HopMessage | StopMessage, said: Hop | Stop) -> None:
    if said.peer is not None:
        message.peer.id = raw_id(said.peer)
    if said.status:
        message.status = said.status.value  # type: ignore[assignment]
    if said.limit != NO_LIMIT:
        message.limit.duration = said.limit.duration_s
        message.limit.data = said.limit.data_bytes


def _status(number: int) -> Status:
    """One that is not known is a refusal for reasons of its own."""
    return Status(number) if number in _STATUSES else Status.UNUSED


_STATUSES: Final = frozenset(Status)


def _peer(raw: bytes) -> PeerId:
    if len(raw) > MAX_ID_BYTES:
        raise TetherError(FRAME_INVALID, "A peer's id is too long.")
    peer = peer_of(raw)
    public_key_of(peer)
    return peer


def _load(message: Message) -> float:
    unknown: Any = UnknownFieldSet(message)
    for field in unknown:
        if field.field_number == LOAD_FIELD and isinstance(field.data, int):
            return min(100, max(0, field.data)) / 100
    return 0.0
