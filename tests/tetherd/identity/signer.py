"""An OIDC issuer of the tests' own: keys that rotate, tokens good and bad, and its two documents over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import jwt
import trio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tetherd.http.serve import serve
from tetherd.identity.tokens import Trust

NOW: Final = 1_800_000_000.0
ISSUER: Final = "https://login.example.com/realm"
TRUST: Final = Trust(ISSUER, "tether", "tenant", "scope")
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def make_key(algorithm: str) -> Key:
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65_537, 2_048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def public(key: Key, kid: str, **more: Any) -> dict[str, Any]:
    match key:
        case rsa.RSAPrivateKey():
            shown = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            shown = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            shown = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**shown, "kid": kid, **more}


@dataclass
class Signer:
    """issuer: as it calls itself; status: of every answer; asked: the paths."""

    issuer: str = ISSUER
    keys: dict[str, tuple[str, Key]] = field(default_factory=dict)
    status: int = 200
    padding: int = 0
    redirects: bool = False
    asked: list[str] = field(default_factory=list)

    def rotate(self, kid: str, algorithm: str = "ES256") -> None:
        self.keys = {kid: (algorithm, make_key(algorithm))}

    def token(self, kid: str = "", **claims: Any) -> str:
        kid = kid or next(iter(self.keys))
        algorithm, key = self.keys[kid]
        return jwt.encode(self.claims(**claims), key, algorithm, headers={"kid": kid})

    def claims(self, **claims: Any) -> dict[str, Any]:
        usual = {"iss": self.issuer, "aud": "tether", "exp": NOW + 300, "iat": NOW, "tenant": "acme"}
        return {k: v for k, v in {**usual, "scope": "openid infer", **claims}.items() if v is not None}

    def key_set(self) -> bytes:
        keys = [public(key, kid, use="sig") for kid, (_, key) in self.keys.items()]
        return json.dumps({"keys": keys}).encode() + b" " * self.padding

    def discovery(self) -> bytes:
        return json.dumps({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}).encode()

    async def fetch(self, url: str) -> bytes:
        """As `tetherd.identity.issuer.fetch`, without a network."""
        self.asked.append(url)
        await trio.lowlevel.checkpoint()
        return self.discovery() if url.endswith("openid-configuration") else self.key_set()

    def app(self) -> Starlette:
        def route(path: str, body: Callable[[], bytes]) -> Route:
            async def answer(_request: Request) -> Response:
                self.asked.append(path)
                if self.redirects:
                    return RedirectResponse("/keys")
                return Response(body(), self.status, media_type="application/json")

            return Route(path, answer)

        return Starlette(
            routes=[
                route("/.well-known/openid-configuration", self.discovery),
                route("/keys", self.key_set),
            ]
        )


@asynccontextmanager
async def serving(signer: Signer) -> AsyncIterator[Signer]:
    """The issuer at an address of its own, by which it calls itself."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        signer.issuer = await nursery.start(partial(serve, signer.app(), "127.0.0.1", 0, stop=stop.wait))
        yield signer
        stop.set()
