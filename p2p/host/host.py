"""The libp2p host: one object that is a node's whole `Network`, opened and closed as one."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import trio

from p2p.errors import FIELD_INVALID, TetherError
from p2p.host.addresses import TcpAddress, expanded
from p2p.host.gossip import Meshes
from p2p.host.handshake import Admit, Gate
from p2p.host.identify import Identification
from p2p.host.kad import Dht
from p2p.host.observed import Observed
from p2p.host.paths import Path, Reach, Reachability
from p2p.host.ping import answer_pings
from p2p.host.punch import Punching
from p2p.host.reach.autonat import AutoNat, Finding
from p2p.host.reach.plan import candidates
from p2p.host.relay import Relaying
from p2p.host.roaming import Roaming
from p2p.host.settings import DEFAULTS, HostSettings
from p2p.host.switch import Switch
from p2p.host.vicinity import Vicinity
from p2p.identity import NodeKey, PeerId
from p2p.membership import Admission, SwarmId
from p2p.transport import (
    CONTROL,
    DEFAULT_LIMITS,
    Gossip,
    GossipCheck,
    LastUse,
    PeerAddress,
    PeerWatcher,
    Stream,
    StreamHandler,
    TopicLimits,
)
from p2p.values import ValueCheck

KEY_BYTES: Final = 32


class Host:
    """Implements `Network`."""

    def __init__(
        self,
        switch: Switch,
        dht: Dht,
        meshes: Meshes,
        vicinity: Vicinity,
        reach: Reach,
        punching: Punching,
        autonat: AutoNat,
        roaming: Roaming,
    ) -> None:
        self.reach = reach
        self.punching = punching
        self._autonat = autonat
        self._roaming = roaming
        self._switch = switch
        self._dht = dht
        self._meshes = meshes
        self._vicinity = vicinity

    @property
    def peer_id(self) -> PeerId:
        return self._switch.own

    def addresses(self) -> tuple[str, ...]:
        return self._switch.addresses()

    def handle(self, protocol: str, handler: StreamHandler, *, guests: bool = False) -> None:
        self._switch.handle(protocol, handler, guests=guests)

    async def connect(self, address: PeerAddress) -> None:
        await self._switch.connect(address)

    async def open_stream(self, peer: PeerId, protocol: str, *, priority: int = CONTROL) -> Stream:
        stream, _ = await self._switch.open(peer, [protocol], priority)
        return stream

    async def disconnect(self, peer: PeerId) -> None:
        await self._switch.disconnect(peer)

    def peers(self) -> frozenset[PeerId]:
        return self._switch.peers()

    def admission(self, peer: PeerId) -> Admission | None:
        return self._switch.admission(peer)

    def paths(self) -> dict[PeerId, Path]:
        """Over what each peer is connected."""
        found = {peer: self._switch.path(peer) for peer in self._switch.peers()}
        return {peer: path for peer, path in found.items() if path is not None}

    def finding(self) -> Finding:
        """Whether strangers' dials arrive, and how this node knows."""
        return self._autonat.finding()

    def on_new_addresses(self, tell: Callable[[], None]) -> None:
        """Call tell whenever `addresses` has changed: this machine moved, or a router lets others in."""
        self._roaming.announced.append(tell)

    def keep(self, last_use: LastUse) -> None:
        self._switch.uses.append(last_use)

    def watch(self, watcher: PeerWatcher) -> None:
        self._switch.watch(watcher)

    async def provide(self, key: bytes) -> None:
        await self._dht.provide(_checked(key))

    async def find_providers(self, key: bytes, limit: int = 20) -> tuple[PeerAddress, ...]:
        return await self._dht.find_providers(_checked(key), limit)

    async def find_peer(self, peer: PeerId) -> PeerAddress | None:
        return await self._dht.find_peer(peer)

    def accept_values(self, namespace: str, check: ValueCheck) -> None:
        self._dht.values.accept(namespace, check)

    async def put_value(self, key: str, value: bytes) -> None:
        await self._dht.values.put(key, value)

    async def get_value(self, key: str) -> bytes | None:
        return await self._dht.values.get(key)

    def forget_value(self, key: str) -> None:
        self._dht.values.forget(key)

    async def publish(self, topic: str, data: bytes) -> None:
        await self._meshes.publish(topic, data)

    def subscribe(
        self, topic: str, check: GossipCheck, limits: TopicLimits = DEFAULT_LIMITS
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Gossip]]:
        return self._meshes.subscribe(topic, check, limits)

    async def meet_neighbours(self) -> None:
        """Find members in this LAN until cancelled: for members, because a guest should meet issuers alone."""
        await self._vicinity.meet()


@asynccontextmanager
async def open_host(
    key: NodeKey,
    *,
    listen: Sequence[str],
    swarm_id: SwarmId,
    passport: Callable[[], bytes],
    admit: Admit,
    settings: HostSettings = DEFAULTS,
    idle_connections: Callable[[], int] | None = None,
) -> AsyncIterator[Host]:
    """Listen, and be a node of the swarm until the context is left; then every connection and socket is closed.

    listen: multiaddrs, /ip4/0.0.0.0/tcp/0 for any port. passport: shown to every peer, asked for anew each time.
    admit: raises TetherError for a peer that must not come in. idle_connections: the budget, where it is not that of
    settings. Raises TetherError(ADDRESS_IN_USE | FIELD_INVALID).
    """
    logging.getLogger("libp2p").setLevel(logging.ERROR)
    budget = idle_connections or (lambda: settings.idle_connections)
    switch = Switch(key.node_id, Gate(key, passport, admit), settings, budget)
    failure: TetherError | None = None
    await switch.bind(listen)
    try:
        async with trio.open_nursery() as nursery:
            host = await _start(switch, key, swarm_id, settings, nursery)
            try:
                yield host
            except TetherError as error:
                failure = error
            with trio.CancelScope(shield=True):
                await switch.close()
            nursery.cancel_scope.cancel()
    finally:
        switch.unbind()
    if failure is not None:
        raise failure


async def _start(
    switch: Switch, key: NodeKey, swarm_id: SwarmId, settings: HostSettings, nursery: trio.Nursery
) -> Host:
    dht = Dht(switch, swarm_id, settings)
    meshes = Meshes(key, switch, settings)
    observed = Observed()
    identification = Identification(switch, nursery, observed)
    punching = Punching(switch, observed, nursery)
    identification.seen_anew.append(punching.look)
    answer_pings(switch)
    switch.listeners.append(meshes)
    switch.uses.append(meshes.last_use)
    await nursery.start(meshes.run)
    await nursery.start(switch.run)
    nursery.start_soon(dht.run)
    roaming = Roaming(switch)
    vicinity = Vicinity(switch, swarm_id, roaming.look_again)
    if settings.upnp:
        nursery.start_soon(vicinity.open_router)
    reach = Reach()
    relaying = Relaying(switch, dht, reach, swarm_id, settings.relay, roaming.look_again)
    nursery.start_soon(relaying.run)

    def to_ask_about() -> list[TcpAddress]:
        own = expanded([*vicinity.mapped(), *switch.bound()], switch.ips())
        return candidates(own, observed.outside(), switch.bound())

    autonat = AutoNat(switch, reach, to_ask_about, random.Random(), concluded=roaming.look_again)
    switch.elsewhere.append(autonat.confirmed)
    switch.refuted = autonat.refuted
    identification.seen_anew.append(autonat.look_again)
    roaming.moved += [lambda: observed.forget(switch.peers()), autonat.moved, vicinity.moved, punching.moved]
    roaming.announced += [identification.tell, dht.moved, autonat.look_again]

    async def attend() -> None:
        """A node that nobody can dial asks the DHT and does not answer for it."""
        while True:
            await reach.changed()
            if reach.verdict is Reachability.PRIVATE:
                dht.withdraw()
            else:
                dht.offer()
            identification.tell()

    identification.heard.append(dht.heard)
    nursery.start_soon(attend)
    nursery.start_soon(autonat.run)
    nursery.start_soon(roaming.run)
    return Host(switch, dht, meshes, vicinity, reach, punching, autonat, roaming)


def _checked(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise TetherError(
            FIELD_INVALID, f"A key of the DHT has {KEY_BYTES} bytes, not {len(key)}.", field="key"
        )
    return key
