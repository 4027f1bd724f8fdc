"""Where members meet: provider records, dials, introductions, and the mending of lost connections.

Every member provides its region's presence key and looks it up, often at first and then ever less; whoever is found
is dialled, and on a new connection both sides introduce themselves (PRESENCE). Workers also provide a key for each
model that they serve. The DHT is for meeting only: what changes afterwards goes by gossip and by calls.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable

import structlog
import trio

from p2p.errors import TetherError
from p2p.identity import PeerId
from p2p.membership import SwarmId
from p2p.messages import PRESENCE
from p2p.rpc import Rpc
from p2p.transport import Network, PeerAddress
from topics import names
from topics.announce import Refused
from topics.directory import Directory
from topics.names import Topic
from topics.pace import Nudge, about
from topics.settings import DHT_KEEPERS, MAX_GREETINGS, SwarmMetrics, SwarmSettings
from topics.voice import Voice

_log = structlog.get_logger()
_BACKLOG = 1_000
"""Connections waiting for their introduction; beyond, the rosters bring what was missed."""


class Meeting:
    """topics: what this node is to be found under."""

    def __init__(
        self,
        network: Network,
        rpc: Rpc,
        directory: Directory,
        voice: Voice,
        swarm_id: SwarmId,
        settings: SwarmSettings,
        metrics: SwarmMetrics,
        *,
        topics: Callable[[], list[Topic]],
    ) -> None:
        self._network = network
        self._rpc = rpc
        self._directory = directory
        self._swarm_id = swarm_id
        self._settings = settings
        self._metrics = metrics
        self._voice = voice
        self._topics = topics
        self._provide_now = Nudge()
        self._came, self._arrivals = trio.open_memory_channel[PeerId](_BACKLOG)
        self._went, self._departures = trio.open_memory_channel[PeerId](_BACKLOG)

    def watch(self, peer: PeerId, up: bool) -> None:
        """The transport's watcher."""
        self._directory.connection(peer, up=up)
        try:
            (self._came if up else self._went).send_nowait(peer)
        except trio.WouldBlock:
            _log.warning("meeting backlog full", peer=peer)
        if up and len(self._network.peers()) <= DHT_KEEPERS:
            self._provide_now()

    def models_changed(self) -> None:
        self._provide_now()

    @property
    def connected(self) -> frozenset[PeerId]:
        return self._network.peers()

    async def greet_all(self) -> None:
        """Get to know the peers that are connected already."""
        await self._each(self._network.peers(), self.greet)

    async def look_up(self, topic: Topic) -> list[PeerAddress]:
        """Ask the DHT who is on a topic, and get to know those who answer. Returns them."""
        began = trio.current_time()
        try:
            with trio.fail_after(2 * self._settings.dial_s):
                found = list(await self._network.find_providers(topic.key(self._swarm_id)))
        except (TetherError, trio.TooSlowError):
            found = []
        self._metrics.dht_lookup(topic.kind, len(found), trio.current_time() - began)
        strangers = {address.peer: address for address in found if self._is_stranger(address.peer)}

        async def meet(peer: PeerId) -> None:
            if await self._dial(peer, strangers[peer].addresses):
                await self.greet(peer)

        await self._each(strangers, meet)
        return [address for address in found if address.peer in self._network.peers()]

    async def reach(self, peer: PeerId) -> bool:
        """Connect unless connected. A peer that cannot be reached is doubted."""
        reached = await self._dial(peer)
        if not reached:
            self._directory.doubt(peer)
        return reached

    async def greet(self, peer: PeerId) -> bool:
        """Introduce this node to a connected peer and hear who it is."""
        try:
            answer = await self._rpc.ask(
                peer, PRESENCE, self._voice.presence(), timeout_s=self._settings.call_s
            )
            self._directory.take(answer, peer)
        except TetherError as error:
            if isinstance(error, Refused):
                _log.warning("introduction refused", peer=peer, reason=error.reason)
            return False
        return True

    async def mend(self, peer: PeerId) -> None:
        """Try to have a lost member back."""
        if await self.reach(peer):
            await self.greet(peer)

    # ── Tasks ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def provide(self) -> None:
        """Be found, for as long as this runs."""
        while True:
            heard = True
            for topic in self._topics():
                heard = await self._provide(topic) and heard
            await self._provide_now.wait(about(self._settings.provide_s if heard else self._settings.mend_s))
            await trio.sleep(self._settings.settle_s)

    async def look_around(self) -> None:
        """Find others: often at first and whenever nobody leads, ever less while all is well."""
        pause_s, led = self._settings.hurry_s, True
        while True:
            await self._directory.lost.wait(about(pause_s))
            led, was_led = bool(self._directory.leaders(self._directory.region)), led
            if led:
                pause_s = min(2 * pause_s, self._settings.lookup_s)
            else:
                pause_s = self._settings.hurry_s if was_led else min(2 * pause_s, self._settings.mend_s)
            await self.look_up(names.presence(self._directory.region))

    async def greet_arrivals(self) -> None:
        await self._consume(self._arrivals, self.greet)

    async def mend_departures(self) -> None:
        await self._consume(self._departures, self._redial)

    async def mend_candidates(self) -> None:
        """Dial lost candidates of this region again: suspects each round, the dead at every sixth."""
        round_ = 0
        while True:
            await trio.sleep(about(self._settings.mend_s))
            round_ += 1
            lost = [
                known.peer
                for known in self._directory.view.members(self._directory.region)
                if "orchestrator" in known.presence.roles
                and known.presence.state != "leaving"
                and (known.state == "suspect" or (known.state == "dead" and round_ % 6 == 0))
            ]
            await self._each(lost[:MAX_GREETINGS], self.mend)

    # ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _dial(self, peer: PeerId, addresses: tuple[str, ...] = ()) -> bool:
        """A stranger's record may be old, and another's network unlike ours: failing speaks against nobody."""
        if peer in self._network.peers():
            return True
        known = self._directory.view.get(peer)
        told = known.presence.addresses if known is not None else ()
        try:
            with trio.fail_after(self._settings.dial_s):
                await self._network.connect(PeerAddress(peer, tuple(dict.fromkeys((*addresses, *told)))))
        except (TetherError, trio.TooSlowError):
            return False
        return True

    async def _provide(self, topic: Topic) -> bool:
        """Returns False if nobody took the record: alone for now."""
        if not self._network.peers():
            return False
        try:
            with trio.fail_after(2 * self._settings.dial_s):
                await self._network.provide(topic.key(self._swarm_id))
        except (TetherError, trio.TooSlowError):
            return False
        return True

    async def _redial(self, peer: PeerId) -> None:
        """A connection closed. If its peer did not say goodbye, it lives or it does not: a dial tells."""
        await trio.sleep(random.uniform(0.0, 0.1))  # both sides dial: let one of them win
        known = self._directory.view.get(peer)
        if known is not None and known.state != "dead" and known.presence.state != "leaving":
            await self.reach(peer)

    def _is_stranger(self, peer: PeerId) -> bool:
        known = self._directory.view.get(peer)
        return peer not in self._network.peers() or known is None or known.state != "alive"

    async def _consume(
        self, peers: trio.MemoryReceiveChannel[PeerId], work: Callable[[PeerId], Awaitable[object]]
    ) -> None:
        slots = trio.Semaphore(MAX_GREETINGS)

        async def one(peer: PeerId) -> None:
            try:
                await work(peer)
            finally:
                slots.release()

        async with trio.open_nursery() as nursery:
            async for peer in peers:
                await slots.acquire()
                nursery.start_soon(one, peer)

    async def _each(self, peers: Iterable[PeerId], work: Callable[[PeerId], Awaitable[object]]) -> None:
        """Do work for all of them, MAX_GREETINGS at a time."""
        slots = trio.Semaphore(MAX_GREETINGS)

        async def one(peer: PeerId) -> None:
            async with slots:
                await work(peer)

        async with trio.open_nursery() as nursery:
            for peer in peers:
                if peer != self._directory.me:
                    nursery.start_soon(one, peer)
