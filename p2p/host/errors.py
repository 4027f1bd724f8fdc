"""What libp2p and its dependencies raise when a peer or the network is at fault."""

from __future__ import annotations

from typing import Final

import trio
from cryptography.exceptions import InvalidSignature, InvalidTag
from google.protobuf.message import DecodeError
from libp2p.exceptions import BaseLibp2pError
from noise.exceptions import (  # type: ignore[import-untyped]
    NoiseHandshakeError,
    NoiseInvalidMessage,
    NoiseMaxNonceError,
    NoiseValueError,
)

from p2p.errors import UNREACHABLE, TetherError

LIBP2P_FAULTS: Final = (
    BaseLibp2pError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    OSError,
)
"""A connection or a stream that broke, at whatever layer it was noticed."""

HOSTILE_BYTES: Final = (
    *LIBP2P_FAULTS,
    DecodeError,
    InvalidSignature,
    InvalidTag,
    NoiseHandshakeError,
    NoiseInvalidMessage,
    NoiseMaxNonceError,
    NoiseValueError,
    ValueError,
)
"""The same, and what parsers raise for bytes that are none of their format: protobuf, Noise, multiaddr, keys."""


def broken(error: BaseException) -> TetherError:
    """The one error by which a broken stream is known above this package."""
    return TetherError(UNREACHABLE, f"The connection broke ({type(error).__name__}).")
