"""JSON Web Tokens: what one says of its bearer, once its signature holds (RFC 7519, RFC 8725). Pure.

The algorithm is the key's, never the token's choice: a key set's entry serves one algorithm, and a token that names
another finds no key. So neither `none` nor an HMAC over a public key can be passed off as a signature.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, Protocol

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from msgspec.structs import replace

from p2p.errors import FIELD_INVALID, TENANT_FORBIDDEN, UNAUTHENTICATED, TetherError
from p2p.identity import PeerId
from p2p.messages import PlacementRequest

OIDC: Final = "oidc"
"""The key id of a placement whose proof is a token; an API key's has twelve hexadecimal digits."""
MAX_TOKEN_BYTES: Final = 8_192
"""Real ones with many groups have 4 KB; servers refuse headers beyond 8."""
MAX_HEADER_CHARS: Final = 1_024
MAX_KEYS: Final = 100
LEEWAY_S: Final = 60.0
"""Clocks of issuers and nodes differ by less."""
RSA_BITS: Final = range(2_048, 8_193)
"""RFC 7518, 3.3, and what still takes no time to check."""
_CURVES: Final = {("RSA", ""): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}

KeySet = Mapping[tuple[str, str], jwt.PyJWK]
"""By key id and algorithm."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose tokens are taken, and what is read of them. scopes_claim "": a token may do everything."""

    issuer: str
    audience: str
    tenant_claim: str = "tenant"
    scopes_claim: str = ""


@dataclass(frozen=True, slots=True)
class Claims:
    """scopes None: everything. expires: unix seconds."""

    tenant: str
    scopes: tuple[str, ...] | None
    expires: float

    def check_model(self, model: str) -> None:
        """Raises TetherError(TENANT_FORBIDDEN)."""
        if self.scopes is not None and not {"infer", f"model:{model}"} & set(self.scopes):
            raise TetherError(TENANT_FORBIDDEN, "This token is not for this model.", field="model")


class TokenProof(msgspec.Struct, frozen=True, tag="token"):
    """A token as a gateway was shown it. tenant: what it says, once the gateway has checked it."""

    token: str
    tenant: str = ""
    key_id: str = OIDC
    secret: bytes = b""
    """None of its own: a token changes every few minutes, and a repeated request must stay the same one."""

    def sign(self, request: PlacementRequest, _gateway: PeerId) -> PlacementRequest:
        """The request with the token in it: only the issuer's signature proves anything to an orchestrator."""
        return replace(request, key_id=self.key_id, proof=self.token.encode())

    def __repr__(self) -> str:
        return f"TokenProof({self.tenant!r})"


class Tokens(Protocol):
    """`tetherd.identity.issuer.Issuer`."""

    async def check(self, token: str) -> Claims:
        """Raises TetherError(UNAUTHENTICATED | ISSUER_UNAVAILABLE)."""
        ...


class Header(msgspec.Struct, frozen=True):
    """RFC 7515, 4.1. What would name another key (jku, jwk, x5u) is never looked at."""

    alg: str
    kid: str = ""
    crit: list[str] | None = None


def looks_like_token(shown: str) -> bool:
    """Whether a bearer's credential is meant as a JWT: three parts, the first of them a JSON object."""
    return shown.startswith("eyJ") and shown.count(".") == 2


def read_header(token: str) -> Header:
    """Raises TetherError(UNAUTHENTICATED)."""
    head = token.partition(".")[0]
    if len(token) > MAX_TOKEN_BYTES or len(head) > MAX_HEADER_CHARS or not token.isascii():
        raise refused("The token is too long, or none.")
    try:
        header = msgspec.json.decode(urlsafe_b64decode(head + "=" * (-len(head) % 4)), type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, RecursionError) as error:
        raise refused("The token's header cannot be read.") from error
    if header.alg not in _CURVES.values():
        raise refused("The token has to be signed with RS256, ES256 or EdDSA.")
    if header.crit is not None:
        raise refused("The token asks for what is not understood here.")
    return header


def find_key(keys: KeySet, header: Header) -> jwt.PyJWK | None:
    """A token without a key id finds the only key of its algorithm."""
    if header.kid:
        return keys.get((header.kid, header.alg))
    able = [key for (_, algorithm), key in keys.items() if algorithm == header.alg]
    return able[0] if len(able) == 1 else None


def verify(token: str, key: jwt.PyJWK, header: Header, trust: Trust, now: float) -> Claims:
    """What the token says, if it is good now (unix seconds). Raises TetherError(UNAUTHENTICATED)."""
    try:
        payload = jwt.PyJWS().decode(token, key, algorithms=[header.alg])
        said = msgspec.json.decode(payload, type=dict[str, Any])
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise refused("The token's signature does not hold.") from error
    if said.get("iss") != trust.issuer:
        raise refused("The token is another issuer's.")
    if trust.audience not in _texts(said.get("aud")):
        raise refused("The token is for another audience.")
    expires = _date(said, "exp")
    if expires is None or expires + LEEWAY_S <= now:
        raise refused("The token has expired.")
    for name in ("nbf", "iat"):
        if (date := _date(said, name)) is not None and date - LEEWAY_S > now:
            raise refused("The token is not good yet.")
    tenant = said.get(trust.tenant_claim)
    if not isinstance(tenant, str) or not tenant:
        raise refused(f"The token says no tenant: it needs the claim {trust.tenant_claim}.")
    scopes = None
    if trust.scopes_claim:
        scopes = tuple(one for text in _texts(said.get(trust.scopes_claim)) for one in text.split())
    return Claims(tenant, scopes, expires)


def read_keys(document: bytes) -> KeySet:
    """The usable keys of a JWK set (RFC 7517, 5), at most MAX_KEYS; others are passed over.

    Raises TetherError(FIELD_INVALID).
    """
    try:
        entries = msgspec.json.decode(document, type=dict[str, Any]).get("keys")
    except (ValueError, RecursionError) as error:
        raise TetherError(FIELD_INVALID, "The issuer's key set is not JSON.", field="keys") from error
    if not isinstance(entries, list):
        raise TetherError(FIELD_INVALID, "The issuer's key set has no keys.", field="keys")
    found: dict[tuple[str, str], jwt.PyJWK] = {}
    for entry in entries[:MAX_KEYS]:
        if (key := _key(entry)) is not None:
            found.setdefault((str(entry.get("kid", "")), key.algorithm_name), key)
    return found


def refused(detail: str) -> TetherError:
    return TetherError(UNAUTHENTICATED, detail, field="Authorization")


def _key(entry: Any) -> jwt.PyJWK | None:
    if not isinstance(entry, dict) or "d" in entry or entry.get("use", "sig") != "sig":
        return None
    algorithm = _CURVES.get((str(entry.get("kty")), str(entry.get("crv", ""))))
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    try:
        key = jwt.PyJWK(entry, algorithm=algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size not in RSA_BITS:
        return None
    return key


def _texts(value: Any) -> list[str]:
    """One string or a list of them, as aud and scopes come."""
    many = value if isinstance(value, list) else [value]
    return [one for one in many if isinstance(one, str)]


def _date(said: Mapping[str, Any], name: str) -> float | None:
    """Raises TetherError(UNAUTHENTICATED) for what is no date."""
    value = said.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise refused(f"The token's {name} is no date.")
    return float(value)
