"""What goes wrong below calls when a peer or the network is at fault."""

from __future__ import annotations

from typing import Final

import trio
from google.protobuf.message import DecodeError
from libp2p.exceptions import BaseLibp2pError

from p2p.errors import UNREACHABLE, TetherError


class PeerFault(Exception):
    """The peer sent what its protocol forbids: it loses the connection, and is remembered for it."""


class NotAuthentic(PeerFault):
    """Bytes on the way were changed, repeated or left out: over a relay, that need not be the peer."""


class ConnectionLost(Exception):
    """The connection ended, at whatever layer it was noticed: nobody's fault as far as anyone can tell."""


BROKEN: Final = (ConnectionLost, trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""A connection or a stream that broke."""

HOSTILE_BYTES: Final = (*BROKEN, PeerFault, BaseLibp2pError, DecodeError, ValueError)
"""The same, and what parsers raise for bytes that are none of their format: protobuf, multiaddr, keys, libp2p's own."""


def broken(error: BaseException) -> TetherError:
    """The one error by which a broken stream is known above this package."""
    return TetherError(UNREACHABLE, f"The connection broke ({type(error).__name__}).")
