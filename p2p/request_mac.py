"""The request MAC: ties a grant to the content that it was given for, without showing the content.

The gateway computes it with a key of the tenant's, the orchestrator signs it into the grant, and the worker recomputes
it from what it unsealed. Resumed ids are outside it: they are not the client's request but the gateway's assertion.
"""

from __future__ import annotations

import hashlib
from typing import Final

from msgspec.structs import replace

from p2p.content import SealedInput
from p2p.wire import encode

MAC_BYTES: Final = 32
MAX_MAC_KEY_BYTES: Final = 64
"""BLAKE2b's own limit."""


def request_mac(mac_key: bytes, content: SealedInput) -> bytes:
    """BLAKE2b, 32 bytes, keyed with mac_key (1 to 64 bytes), over content without its key and its resumed ids."""
    return hashlib.blake2b(
        encode(replace(content, mac_key=b"", resume=())), digest_size=MAC_BYTES, key=mac_key
    ).digest()
