"""What a node does for the swarm: the parts behind its roles, opened in their order, drained together.

orchestrator (with its ledger) > gateway > worker, which lends what the engines loaded
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio
from starlette.routing import BaseRoute

from inference.worker import Worker
from p2p.host.host import Host
from p2p.identity import NodeKey, PeerId
from p2p.membership import Member, Papers, SwarmId
from p2p.messages import RETRY_LETTER, HealthReport, RetryOrder, Role
from p2p.rpc import Rpc
from p2p.transport import PeerAddress
from tetherd.config import Config, is_loopback, parse_bind
from tetherd.data_dir import DataDir
from tetherd.dead_letters.letters import MemoryLetters
from tetherd.dead_letters.office import Office
from tetherd.dead_letters.redis_streams import open_redis
from tetherd.dead_letters.routes import letter_routes
from tetherd.dead_letters.shelf import Shelf
from tetherd.dead_letters.table import TableLetters
from tetherd.gateway.gateway import Gateway
from tetherd.gateway.journal import Journal
from tetherd.gateway.replay import Replays
from tetherd.gateway.retries import Retries
from tetherd.gateway.secrets import local_secret
from tetherd.identity.door import Door
from tetherd.identity.issuer import Issuer
from tetherd.identity.tokens import Trust
from tetherd.models import ModelHouse
from tetherd.orchestrator.orchestrator import Orchestrator
from tetherd.orchestrator.quotas import read_quotas
from tetherd.registry.desk import LibraryDesk, library_routes
from tetherd.registry.errands import Errands
from tetherd.registry.ledger_copy import LedgerCopy
from tetherd.registry.library import Library, cache_limits
from tetherd.registry.replicas import InRegion, Replicas
from tetherd.store import SqlStore, open_store
from tetherd.store.outbox import Outbox
from tetherd.store.protocol import Store
from tetherd.telemetry.metrics import Metrics
from tetherd.tenants.desk import TenantDesk
from tetherd.tenants.routes import tenant_routes
from tetherd.usage.delivery import Delivery, read_hook
from tetherd.usage.routes import usage_routes
from topics.swarm import Swarm

RETRY_LETTER_S: Final = 5.0
"""For a gateway's word that it has the input, and tries it."""


@dataclass(frozen=True, slots=True)
class Node:
    """A member that has entered its swarm: what every role stands on."""

    network: Host
    rpc: Rpc
    papers: Papers
    swarm: Swarm

    def member(self, peer: PeerId) -> Member | None:
        """Who a connected peer is. A node is a member to itself: its gateway may call its worker."""
        own = self.papers.member
        shown = own if peer == own.peer else self.network.admission(peer)
        return shown if isinstance(shown, Member) else None


class Duties:
    """`take` opens the parts of the roles that the node was given; what it was not given stays None."""

    def __init__(
        self, config: Config, data: DataDir, key: NodeKey, models: ModelHouse, metrics: Metrics
    ) -> None:
        self.incarnation = data.next_incarnation(time.time())
        self.orchestrator: Orchestrator | None = None
        self.gateway: Gateway | None = None
        self._worker: Worker | None = None
        self._store: Store | None = None
        self._config = config
        self._data = data
        self._key = key
        self._models = models
        self._metrics = metrics
        self._library: LibraryDesk | None = None
        self._swarm_id = SwarmId("")
        self._outbox: Outbox | None = None
        self._letters: Sequence[BaseRoute] = ()
        self._meaning: Callable[[str], str] = str
        oidc = config.oidc
        trust = Trust(oidc.issuer, oidc.audience, oidc.tenant_claim, oidc.scopes_claim)
        self._issuer = Issuer(trust, now=time.time) if oidc.issuer else None
        self._tenants = TenantDesk(data, now=time.time, require_keys=config.require_keys, tokens=self._issuer)
        self.door: Final = Door(self._tenants, self._issuer, now=time.time)

    async def take(self, parts: trio.Nursery, node: Node, roles: Sequence[Role]) -> None:
        """Returns when every part serves. A worker waits for its models here."""
        library = await self._open_library(parts, node)
        if "orchestrator" in roles:
            await self._orchestrate(parts, node, library)
        if "gateway" in roles:
            await self._open_gateway(parts, node)
        if "worker" in roles:
            await self._lend(parts, node)

    async def _open_library(self, parts: trio.Nursery, node: Node) -> Library:
        library = Library(
            self._data.models,
            self._key,
            self._data.authority(),
            node.papers.member.certificate.swarm_id,
            node.rpc,
            node.network,
            cache_limits(self._config.models, self._generating),
            now=time.time,
            environ=os.environ,
            metrics=self._metrics.models,
        )
        await parts.start(library.run)
        self._metrics.models.watch(library.kept_bytes)
        self._meaning = library.catalogue.meaning
        replicas = Replicas(library, InRegion(node.swarm), node.rpc)
        await parts.start(replicas.run)
        errands = Errands()
        await parts.start(errands.run)
        self._library = LibraryDesk(library, replicas, errands)
        self._models.open_library(library)
        return library

    async def _orchestrate(self, parts: trio.Nursery, node: Node, library: Library) -> None:
        self._swarm_id = node.papers.member.certificate.swarm_id
        store = self._store = await open_store(
            self._config.store, self._data.ledger, self._config.store_replica
        )
        if isinstance(store, SqlStore):
            copy = LedgerCopy(library.catalogue, store.database, store.reports)
            parts.start_soon(copy.run)
            await self._tenants.move_into(store.register)
        office = await parts.start(self._keep_letters, store)
        self._letters = letter_routes(office, partial(_ask_again, node))
        self.orchestrator = Orchestrator(
            self._key,
            node.papers,
            node.swarm,
            node.network,
            node.rpc,
            store,
            now=store.now,
            metrics=self._metrics.orchestrator,
            desk=self._tenants,
            quotas=read_quotas(self._config.quotas, shared=store.shared),
            office=office,
        )
        await parts.start(self.orchestrator.run)
        if (hook := read_hook(self._config.usage, shared=store.shared)) and isinstance(store, SqlStore):
            outbox = self._outbox = Outbox(store.database)
            counts = self._metrics.usage
            delivery = Delivery(hook, outbox, now=store.now, wall=time.time, metrics=counts)
            await parts.start(delivery.run)

    async def _keep_letters(
        self, store: Store, *, task_status: trio.TaskStatus[Office] = trio.TASK_STATUS_IGNORED
    ) -> None:
        table = TableLetters(store.database) if isinstance(store, SqlStore) else MemoryLetters()
        url, counts = self._config.dlq, self._metrics.letters
        async with open_redis(url, self._config.region) if url else nullcontext() as redis:
            shelf = Shelf(table, redis, now=store.now, metrics=counts)
            office = Office(shelf, now=store.now, metrics=counts)
            task_status.started(office)
            await office.run()

    async def _open_gateway(self, parts: trio.Nursery, node: Node) -> None:
        self.gateway = Gateway(
            self._key,
            node.papers.member.certificate.swarm_id,
            node.network,
            node.rpc,
            node.swarm,
            Replays(self._data.replays, local_secret(self._key), now=time.time),
            Journal(self._data.settlements, now=time.time),
            Retries(self._data.dead_inputs, local_secret(self._key), node.network, now=time.time),
            metrics=self._metrics.gateway,
            meaning=self._meaning,
            tokens=self._issuer,
            require_keys=self._config.require_keys or not is_loopback(parse_bind(self._config.http.bind)[0]),
        )
        await parts.start(self.gateway.run)

    async def _lend(self, parts: trio.Nursery, node: Node) -> None:
        room = await self._models.wait()
        self._worker = Worker(
            self._key,
            self.incarnation,
            node.rpc,
            node.member,
            node.papers.member.certificate.swarm_id,
            self._config.region,
            room,
            now=time.time,
            leaders=node.swarm.leaders,
            gpu_class=self._models.device.gpu_class if self._models.device else "cpu",
            metrics=self._metrics.worker,
        )
        await parts.start(self._worker.run)
        await node.swarm.announce_models()

    def health(self) -> HealthReport | None:
        return self._worker.health() if self._worker else None

    @property
    def running(self) -> int:
        """Answers that clients of this node wait for."""
        return self.gateway.running if self.gateway else 0

    def _generating(self) -> bool:
        return self._worker is not None and self._worker.busy

    def admin_routes(self) -> Sequence[BaseRoute]:
        """What the admin socket serves for the roles; the rest is the daemon's."""
        library = library_routes(self._library) if self._library else []
        if self.orchestrator is None:
            return library
        swarm_id = self._swarm_id
        return [
            *library,
            *self._letters,
            *tenant_routes(self._tenants),
            usage_routes(self.orchestrator, swarm_id, self._outbox),
        ]

    async def drain(self, limit_s: float) -> None:
        """Take no new work, finish what runs."""
        async with trio.open_nursery() as leaving:
            if self.gateway is not None:
                leaving.start_soon(self.gateway.drain)
            if self._worker is not None:
                leaving.start_soon(self._worker.drain, limit_s)

    async def close(self) -> None:
        """What was accepted is on the disk already; this folds the write-ahead log into the file."""
        if self._store is not None:
            with trio.CancelScope(shield=True):
                await self._store.close()


async def _ask_again(node: Node, gateway: PeerId, job: bytes) -> bytes:
    if gateway != node.network.peer_id:
        await node.network.connect(PeerAddress(gateway, node.swarm.addresses_of(gateway)))
    answer = await node.rpc.ask(gateway, RETRY_LETTER, RetryOrder(job), timeout_s=RETRY_LETTER_S)
    return answer.job
