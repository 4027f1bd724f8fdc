"""A node's part in relaying: it offers to relay while it is public, and has relays for itself while it is private.

Who is willing is found under one key of the DHT, as members of a topic are; peers that are connected are asked first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog
import trio

from p2p.errors import TetherError
from p2p.host.paths import Reach, Reachability
from p2p.host.relay.client import Opener, StopService
from p2p.host.relay.hop import HopService
from p2p.host.relay.keeper import Keeper
from p2p.host.settings import RelayTerms
from p2p.host.switch import Switch
from p2p.membership import SwarmId
from p2p.transport import PeerAddress

PROVIDE_S: Final = 300.0
"""As for topics: a record lives for half an hour."""
PROVIDE_AGAIN_S: Final = 1.0
"""Where nobody heard it."""
FOUND: Final = 20

_log = structlog.get_logger()


class Directory(Protocol):
    """As much of the DHT as is used here."""

    async def provide(self, key: bytes) -> None: ...

    async def find_providers(self, key: bytes, limit: int) -> Sequence[PeerAddress]: ...


class Relaying:
    """terms: None for a node that never relays. announce: called when there are other circuits to announce."""

    def __init__(
        self,
        switch: Switch,
        directory: Directory,
        reach: Reach,
        swarm_id: SwarmId,
        terms: RelayTerms | None,
        announce: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._reach = reach
        self._key = relay_key(swarm_id)
        self.hop = HopService(switch, terms) if terms else None
        self.keeper = Keeper(switch, reach, lambda: directory.find_providers(self._key, FOUND), announce)
        StopService(switch, lambda relay: relay in self.keeper.held)
        switch.ways.through = Opener(switch).open
        switch.behind = self.keeper.addresses

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.keeper.run)
            if self.hop is not None:
                nursery.start_soon(self._offer, self.hop)

    async def _offer(self, hop: HopService) -> None:
        while True:
            if self._reach.verdict is Reachability.PUBLIC:
                _log.info("relay.offered")
                hop.offer()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._be_found)
                    await self._reach.changed()
                    nursery.cancel_scope.cancel()
                hop.withdraw()
            else:
                await self._reach.changed()

    async def _be_found(self) -> None:
        while True:
            pause_s = PROVIDE_S
            try:
                await self._directory.provide(self._key)
            except TetherError:
                pause_s = PROVIDE_AGAIN_S
            await trio.sleep(pause_s)


def relay_key(swarm_id: SwarmId) -> bytes:
    """Under which willing relays are found."""
    return hashlib.blake2b(digest_size=32, key=bytes.fromhex(swarm_id), person=b"tether-relay").digest()
