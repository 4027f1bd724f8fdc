"""API keys, and how a gateway proves that it was shown one without showing it. Pure.

A key is tether_TENANT_ID_SECRET: the part before the secret is what lists and logs may show, and it names the tenant,
so that a gateway knows the job of a request before it asks anybody. The ledger keeps SHA-256 of the whole. A slow hash
is for what people choose: against 256 random bits guessing is hopeless at any speed, and every placement pays for it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from typing import Final

import msgspec
from msgspec.structs import replace

from p2p.errors import UNAUTHENTICATED, TetherError
from p2p.identity import PeerId
from p2p.messages import PlacementRequest
from p2p.wire import encode

SECRET_BYTES: Final = 32
KEY_ID_BYTES: Final = 6
TENANT: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
MARK: Final = "tether_"
_KEY: Final = re.compile(rf"{MARK}({TENANT.pattern})_([0-9a-f]{{12}})_([A-Za-z0-9_-]{{43}})")
_PROOF: Final = b"tether-placement-1\x00"


class KeyProof(msgspec.Struct, frozen=True, tag="key"):
    """What a gateway keeps of a key while it serves a request. key_hash: 32 bytes; secret: keys the request MAC."""

    tenant: str
    key_id: str
    key_hash: bytes
    secret: bytes

    def sign(self, request: PlacementRequest, gateway: PeerId) -> PlacementRequest:
        """The request with this key's id and proof in it."""
        named = replace(request, key_id=self.key_id, proof=b"")
        return replace(named, proof=proof_of(self.key_hash, named, gateway))

    def __repr__(self) -> str:
        return f"KeyProof({self.tenant!r}, {self.key_id!r})"


def make_key(tenant: str, random: bytes) -> tuple[str, str]:
    """A new key and its id. random: KEY_ID_BYTES + SECRET_BYTES fresh random bytes."""
    key_id = random[:KEY_ID_BYTES].hex()
    secret = urlsafe_b64encode(random[KEY_ID_BYTES:]).rstrip(b"=").decode()
    return f"{MARK}{tenant}_{key_id}_{secret}", key_id


def read_key(text: str) -> KeyProof:
    """Raises TetherError(UNAUTHENTICATED) for what is no key; whether it is a known one, the orchestrator says."""
    found = _KEY.fullmatch(text)
    if found is None:
        raise TetherError(UNAUTHENTICATED, "The API key is not whole.", field="Authorization")
    secret = hashlib.blake2b(found[4].encode(), digest_size=SECRET_BYTES, person=b"tether-key-mac").digest()
    return KeyProof(found[1], found[3], hash_of(text), secret)


def hash_of(key: str) -> bytes:
    """What the ledger keeps, 32 bytes."""
    return hashlib.sha256(key.encode()).digest()


def prefix_of(tenant: str, key_id: str) -> str:
    """What a person recognises a key by."""
    return f"{MARK}{tenant}_{key_id}"


def proof_of(key_hash: bytes, request: PlacementRequest, gateway: PeerId) -> bytes:
    """HMAC-SHA256 of a placement request without its proof, for one gateway (design: a key never leaves it)."""
    said = _PROOF + gateway.encode() + b"\x00" + encode(replace(request, proof=b""))
    return hmac.digest(key_hash, said, "sha256")
