"""Signed releases as values of the DHT: a worker that knows nobody with a catalogue resolves a name all the same.

    /tether-release/<SHA-256 of swarm id and name@version>     that release, its publisher's newest word
    /tether-release/<SHA-256 of swarm id and name>             the newest release of the name

Whoever keeps one has checked its signatures, and so does whoever reads it. A publisher who was revoked is no matter
here: those who have not heard of it yet are honest, and what they put is refused by the catalogue of whoever reads it.
"""

from __future__ import annotations

import hashlib
from typing import Final

import structlog

from inference.artifacts.release import Published, SignedRelease, check_release
from p2p.errors import TetherError
from p2p.membership import SwarmId
from p2p.transport import Discovery
from p2p.values import MAX_VALUE_BYTES, value_key
from p2p.wire import decode, encode

NAMESPACE: Final = "tether-release"

_log: Final = structlog.get_logger()


class ReleaseCheck:
    """What may stand under a name: a release of it whose publisher the authority trusts. Implements `ValueCheck`."""

    final: Final = False

    def __init__(self, swarm_id: SwarmId) -> None:
        self._swarm_id = swarm_id

    def rank(self, name: str, value: bytes) -> int | None:
        try:
            published = check_release(decode(value, SignedRelease), self._swarm_id)
        except TetherError:
            return None
        if name not in (key_name(self._swarm_id, one) for one in _names(published)):
            return None
        return int(published.release.created * 1_000)


class ReleasesOnDht:
    """Puts, gets, and stops repeating."""

    def __init__(self, network: Discovery, swarm_id: SwarmId) -> None:
        self._network = network
        self._swarm_id = swarm_id
        network.accept_values(NAMESPACE, ReleaseCheck(swarm_id))

    async def put(self, published: Published) -> None:
        """Keep it there while this node is up. A release of over 256 KiB is told by peers alone."""
        value = encode(published.signed)
        if len(value) > MAX_VALUE_BYTES:
            return
        for name in _names(published):
            try:
                await self._network.put_value(self._key(name), value)
            except TetherError as error:
                _log.debug("release_not_put", model=published.reference, cause=str(error)[:200])

    def forget(self, published: Published) -> None:
        """Repeat it no more."""
        for name in _names(published):
            self._network.forget_value(self._key(name))

    async def get(self, name: str) -> SignedRelease | None:
        """name: with or without @version."""
        value = await self._network.get_value(self._key(name))
        return None if value is None else decode(value, SignedRelease)

    def _key(self, name: str) -> str:
        return value_key(NAMESPACE, key_name(self._swarm_id, name))


def key_name(swarm_id: SwarmId, name: str) -> str:
    """Under what a name, or name@version, is found: hex, so that a key tells strangers nothing."""
    return hashlib.sha256(f"tether/release/{swarm_id}/{name}".encode()).hexdigest()


def _names(published: Published) -> tuple[str, str]:
    return published.reference, published.release.name
