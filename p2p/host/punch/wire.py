"""DCUtR's one message, as libp2p writes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch

from p2p.errors import FRAME_INVALID, TetherError
from p2p.host.addresses import TcpAddress, from_wire, is_circuit, parse, to_wire

DCUTR: Final = "/libp2p/dcutr"
MAX_BYTES: Final = 4096
"""The specification's own limit."""
MAX_TARGETS: Final = 6
"""Dialled of what a peer lists: its addresses in two families, before and after a move. More is an attempt to have us
knock at others."""

CONNECT: Final = 100
SYNC: Final = 300


@dataclass(frozen=True, slots=True)
class Punch:
    kind: int
    addresses: tuple[TcpAddress, ...] = ()


def write(punch: Punch) -> bytes:
    message = HolePunch()
    message.type = punch.kind  # type: ignore[assignment]  # the stubs have a type of their own for each enum
    message.ObsAddrs.extend(to_wire(map(str, punch.addresses)))
    return message.SerializeToString()


def read(data: bytes) -> Punch:
    """Raises TetherError(FRAME_INVALID)."""
    try:
        message = HolePunch.FromString(data)
    except DecodeError as error:
        raise TetherError(FRAME_INVALID, "These bytes are no message of DCUtR.") from error
    listed = (parse(text) for text in from_wire(message.ObsAddrs) if not is_circuit(text))
    return Punch(message.type, targets(listed))


def targets(addresses: Iterable[TcpAddress]) -> tuple[TcpAddress, ...]:
    """Those worth dialling through routers: the internet's."""
    found: Sequence[TcpAddress] = [one for one in dict.fromkeys(addresses) if one.ip and one.ip.is_global]
    return tuple(found[:MAX_TARGETS])
