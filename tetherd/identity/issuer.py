"""An OIDC issuer's keys, fetched when they are needed and kept while they are fresh (OpenID Connect Discovery 1.0, 4).

Keys rotate: a token with an unknown key id has the set fetched again, at most every PAUSE_S, whoever sends how many. An
issuer that is away costs nothing for as long as the last set may be used.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

import httpx2
import msgspec
import structlog
import trio

from p2p.errors import FIELD_INVALID, FORBIDDEN, ISSUER_UNAVAILABLE, TetherError
from tetherd.identity.tokens import Claims, KeySet, Trust, find_key, read_header, read_keys, refused, verify

FRESH_S: Final = 600.0
"""How late a withdrawn key is noticed."""
STALE_S: Final = 3_600.0
"""How old a set may be while the issuer is away: longer than most tokens live."""
PAUSE_S: Final = 10.0
"""Between two fetches: a rotation is known as soon, and nobody can make a node pester the issuer."""
FETCH_S: Final = 5.0
"""For both documents together: a client waits."""
MAX_DOCUMENT_BYTES: Final = 256 * 1024

Fetch = Callable[[str], Awaitable[bytes]]
_log: Final = structlog.get_logger()


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str
    jwks_uri: str


async def fetch(url: str) -> bytes:
    """A small document; redirects are not followed. Raises TetherError(ISSUER_UNAVAILABLE)."""
    body = bytearray()
    try:
        async with (
            httpx2.AsyncClient(follow_redirects=False, timeout=FETCH_S, trust_env=False) as client,
            client.stream("GET", url, headers={"accept": "application/json"}) as answer,
        ):
            if answer.status_code != 200:
                raise TetherError(ISSUER_UNAVAILABLE, f"The issuer answers with {answer.status_code}.")
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise TetherError(ISSUER_UNAVAILABLE, "The issuer's document is too long.")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise TetherError(ISSUER_UNAVAILABLE, f"The issuer: {type(error).__name__}.") from error
    return bytes(body)


class Issuer:
    """now: unix seconds, for the dates in tokens."""

    def __init__(self, trust: Trust, *, now: Callable[[], float], fetch: Fetch = fetch) -> None:
        self._trust = trust
        self._now = now
        self._fetch = fetch
        self._turn = trio.Lock()
        self._keys: KeySet = {}
        self._fetched = -float("inf")
        self._tried = -float("inf")

    async def check(self, token: str) -> Claims:
        """What a token says of its bearer. Raises TetherError(UNAUTHENTICATED | ISSUER_UNAVAILABLE)."""
        header = read_header(token)
        if self._age >= FRESH_S and not (self._usable and self._turn.locked()):
            await self._refresh()
        if self._usable and find_key(self._keys, header) is None:
            await self._refresh()
        if not self._usable:
            detail = "The keys of the OIDC issuer cannot be fetched."
            raise TetherError(ISSUER_UNAVAILABLE, detail, retry_after_s=PAUSE_S)
        key = find_key(self._keys, header)
        if key is None:
            raise refused("The token is signed with a key that its issuer does not show.")
        return verify(token, key, header, self._trust, self._now())

    @property
    def _age(self) -> float:
        return trio.current_time() - self._fetched

    @property
    def _usable(self) -> bool:
        return self._age < STALE_S

    async def _refresh(self) -> None:
        """Once for all who wait for it; a client that leaves does not undo it for the others."""
        async with self._turn:
            if trio.current_time() - self._tried < PAUSE_S:
                return
            self._tried = trio.current_time()
            cause = "it does not answer in time"
            with trio.move_on_after(FETCH_S, shield=True):
                try:
                    self._keys, self._fetched = await self._newest(), trio.current_time()
                except TetherError as error:
                    cause = error.detail
            if self._fetched < self._tried:
                _log.warning("oidc.not_refreshed", cause=cause, usable=self._usable)

    async def _newest(self) -> KeySet:
        issuer = self._trust.issuer
        document = await self._fetch(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        try:
            found = msgspec.json.decode(document, type=_Discovery)
        except (ValueError, RecursionError) as error:
            detail = "The issuer's configuration cannot be read."
            raise TetherError(FIELD_INVALID, detail, field="issuer") from error
        if found.issuer != issuer:
            raise TetherError(FORBIDDEN, "The issuer's configuration is another issuer's.", field="issuer")
        if not is_safe(found.jwks_uri):
            raise TetherError(FORBIDDEN, "The issuer's keys are not behind https.", field="jwks_uri")
        return read_keys(await self._fetch(found.jwks_uri))


def is_safe(url: str) -> bool:
    """https, or plain on this very machine, as behind a sidecar."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (
        parts.scheme == "https" or (parts.scheme == "http" and host in ("127.0.0.1", "::1", "localhost"))
    )
