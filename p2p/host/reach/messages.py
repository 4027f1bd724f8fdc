"""AutoNAT v2 as libp2p writes it. https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md#rpc-messages"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from p2p.errors import FRAME_INVALID, TetherError
from p2p.host.addresses import MAX_ADDRESSES, from_wire, to_wire
from p2p.host.protobuf import Value, bytes_in, fields, fixed64, lengthy, number_in, varint

DIAL_REQUEST: Final = "/libp2p/autonat/2/dial-request"
DIAL_BACK: Final = "/libp2p/autonat/2/dial-back"
MAX_BYTES: Final = 8_192
"""Of a message: 16 addresses, or a piece of data against amplification."""


class Status(IntEnum):
    """What became of a request."""

    INTERNAL_ERROR = 0
    REJECTED = 100
    """Too many requests."""
    DIAL_REFUSED = 101
    """None of the addresses is one that the answerer dials."""
    OK = 200


class DialStatus(IntEnum):
    """What became of a dial; only of a request that was OK."""

    UNUSED = 0
    DIAL_ERROR = 100
    DIAL_BACK_ERROR = 101
    """Somebody listens there, but the nonce was not taken."""
    OK = 200


@dataclass(frozen=True, slots=True)
class DialRequest:
    """addresses: the best first, one of them is dialled; empty for those that this node cannot read.

    nonce: to be said over the connection that was dialled.
    """

    addresses: tuple[str, ...]
    nonce: int


@dataclass(frozen=True, slots=True)
class DialResponse:
    status: Status
    index: int = 0
    dial: DialStatus = DialStatus.UNUSED


@dataclass(frozen=True, slots=True)
class DataRequest:
    """The asker has to send so many bytes before the address is dialled: a dial is no cheap weapon."""

    index: int
    size: int


@dataclass(frozen=True, slots=True)
class Data:
    data: bytes


Message = DialRequest | DialResponse | DataRequest | Data


def write(message: Message) -> bytes:
    match message:
        case DialRequest(addresses, nonce):
            wire = b"".join(lengthy(1, raw) for raw in to_wire(addresses))
            return lengthy(1, wire + fixed64(2, nonce))
        case DialResponse(status, index, dial):
            return lengthy(2, varint(1, status) + varint(2, index) + varint(3, dial))
        case DataRequest(index, size):
            return lengthy(3, varint(1, index) + varint(2, size))
        case Data(data):
            return lengthy(4, lengthy(1, data))


def read(raw: bytes) -> Message:
    """Raises TetherError(FRAME_INVALID)."""
    found = fields(raw)
    kinds = [number for number in (1, 2, 3, 4) if number in found]
    if len(kinds) != 1:
        raise _bad()
    body = fields(bytes_in(found, kinds[0])[-1])
    match kinds[0]:
        case 1:
            listed = bytes_in(body, 1)[:MAX_ADDRESSES]
            return DialRequest(tuple((from_wire([raw]) or [""])[0] for raw in listed), number_in(body, 2))
        case 2:
            return _response(body)
        case 3:
            return DataRequest(number_in(body, 1), number_in(body, 2))
        case _:
            return Data((bytes_in(body, 1) or [b""])[-1])


def write_nonce(nonce: int) -> bytes:
    """What is said over the connection that was dialled back."""
    return fixed64(1, nonce)


def read_nonce(raw: bytes) -> int:
    """Raises TetherError(FRAME_INVALID)."""
    return number_in(fields(raw), 1)


def _response(body: dict[int, list[Value]]) -> DialResponse:
    try:
        return DialResponse(Status(number_in(body, 1)), number_in(body, 2), DialStatus(number_in(body, 3)))
    except ValueError as error:
        raise _bad() from error


def _bad() -> TetherError:
    return TetherError(FRAME_INVALID, "These bytes are no message of AutoNAT v2.")
