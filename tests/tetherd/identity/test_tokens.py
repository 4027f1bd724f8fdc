"""What a token says is believed only if its issuer signed it, for us, and for now."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from contextlib import suppress
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import TENANT_FORBIDDEN, UNAUTHENTICATED, TetherError
from tests.tetherd.identity.signer import NOW, TRUST, Signer, make_key, public
from tetherd.identity.tokens import Claims, find_key, read_header, read_keys, verify

SIGNER = Signer(keys={name: (name, make_key(name)) for name in ("RS256", "ES256", "EdDSA")})
KEYS = read_keys(SIGNER.key_set())


def check(token: str, now: float = NOW) -> Claims:
    header = read_header(token)
    key = find_key(KEYS, header)
    if key is None:
        raise TetherError(UNAUTHENTICATED, "no key")
    return verify(token, key, header, TRUST, now)


def part(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def refused(token: str, now: float = NOW) -> str:
    with pytest.raises(TetherError) as caught:
        check(token, now)
    assert caught.value.code is UNAUTHENTICATED
    assert len(token) < 100 or token not in caught.value.message
    return caught.value.detail


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_of_each_algorithm_says_tenant_and_scopes(algorithm: str) -> None:
    assert check(SIGNER.token(algorithm)) == Claims("acme", ("openid", "infer"), NOW + 300)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"iss": "https://evil.example"}, "issuer"),
        ({"aud": "another"}, "audience"),
        ({"aud": ["a", "b"]}, "audience"),
        ({"aud": None}, "audience"),
        ({"exp": None}, "expired"),
        ({"exp": NOW - 61}, "expired"),
        ({"exp": True}, "no date"),
        ({"nbf": NOW + 61}, "not good yet"),
        ({"iat": NOW + 61}, "not good yet"),
        ({"tenant": None}, "no tenant"),
        ({"tenant": ["acme"]}, "no tenant"),
    ],
)
def test_a_claim_that_is_not_as_it_has_to_be_is_refused(claims: dict[str, Any], said: str) -> None:
    signed = jwt.PyJWS().encode(
        json.dumps(SIGNER.claims(**claims)).encode(),
        SIGNER.keys["ES256"][1],
        "ES256",
        headers={"kid": "ES256"},
    )
    assert said in refused(signed)


def test_clocks_may_differ_by_a_minute_and_an_audience_may_be_one_of_several() -> None:
    check(SIGNER.token(aud=["other", "tether"], exp=NOW - 59, nbf=NOW + 59))


def test_a_token_without_a_signature_or_signed_with_the_public_key_as_a_password_is_refused() -> None:
    claims = part(SIGNER.claims())
    assert "RS256" in refused(f"{part({'alg': 'none', 'kid': 'RS256'})}.{claims}.")
    key = SIGNER.keys["RS256"][1]
    assert isinstance(key, rsa.RSAPrivateKey)
    password = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    said = f"{part({'alg': 'HS256', 'kid': 'RS256'})}.{claims}"
    mac = urlsafe_b64encode(hmac.digest(password, said.encode(), hashlib.sha256)).rstrip(b"=").decode()
    assert "RS256" in refused(f"{said}.{mac}")


def test_a_key_serves_its_own_algorithm_only() -> None:
    token = SIGNER.token("ES256")
    _, claims, signature = token.split(".")
    refused(f"{part({'alg': 'RS256', 'kid': 'ES256'})}.{claims}.{signature}")
    refused(f"{part({'alg': 'ES256', 'kid': 'RS256'})}.{claims}.{signature}")


def test_a_key_that_the_token_brings_along_is_not_looked_at() -> None:
    mine = make_key("ES256")
    for more in ({"jwk": public(mine, "ES256")}, {"jku": "https://evil.example/keys"}, {"kid": "../../etc"}):
        token = jwt.encode(SIGNER.claims(), mine, "ES256", headers={"kid": "ES256", **more})
        refused(token)


def test_a_changed_payload_a_critical_header_and_a_huge_token_are_refused() -> None:
    head, _, signature = SIGNER.token("ES256").split(".")
    assert "signature" in refused(f"{head}.{part(SIGNER.claims(tenant='beta'))}.{signature}")
    assert "understood" in refused(f"{part({'alg': 'ES256', 'crit': ['b64'], 'b64': False})}..{signature}")
    assert "too long" in refused(SIGNER.token("ES256", groups="x" * 9_000))


def test_a_key_set_is_taken_without_what_must_not_sign() -> None:
    good, weak = make_key("ES256"), rsa.generate_private_key(65_537, 1_024)
    keys = [
        public(good, "encrypts", use="enc"),
        public(good, "other", alg="ES512"),
        {**public(good, "private"), "d": "AAAA"},
        public(weak, "weak"),
        {"kty": "oct", "k": "AAAA", "kid": "password"},
        {"kty": "EC", "crv": "P-256", "kid": "broken"},
        "no key",
        public(good, "good"),
    ]
    assert list(read_keys(json.dumps({"keys": keys}).encode())) == [("good", "ES256")]


def test_scopes_name_the_models_that_a_token_is_for() -> None:
    claims = check(SIGNER.token(scope="openid model:tiny"))
    claims.check_model("tiny")
    with pytest.raises(TetherError) as caught:
        claims.check_model("large")
    assert caught.value.code is TENANT_FORBIDDEN
    with pytest.raises(TetherError):
        check(SIGNER.token(scope=None)).check_model("tiny")


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: f"eyJ{part(raw.hex())}.e30.AA"))
def test_whatever_is_shown_is_a_token_or_refused(token: str) -> None:
    refused(token)


@given(st.binary(max_size=300))
def test_whatever_a_key_set_is_it_is_read_or_refused(document: bytes) -> None:
    with suppress(TetherError):
        read_keys(document)
