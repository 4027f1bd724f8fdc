"""A network in one process: the twin of `p2p/host.py` for tests, simulations and examples.

    world = MemoryNetwork()
    alice = world.node(alice_id, passport=lambda: alice_passport, admit=admit)
    world.cut(alice_id, bob_id)

It keeps the host's promises (the gate, bounded ordered streams, meeting places, gossip through subscribers only)
and adds the faults: `cut` and `heal` of one pair, `kill` of one node, `delay_s` for everything that travels.
Handlers run in system tasks, so a bug in one ends the run loudly; all of them end with the run.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from p2p.errors import FIELD_INVALID, UNREACHABLE, TetherError
from p2p.identity import PeerId
from p2p.membership import Admission, Guest
from p2p.pipe import PipeStream, pipe
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
from p2p.values import MAX_VALUE_BYTES, ValueCheck, parsed_key

Admit = Callable[[bytes, PeerId], Admission]
Pair = frozenset[PeerId]


@dataclass(eq=False)
class _Connection:
    """admitted[a]: what a learned of the other side when it connected."""

    admitted: dict[PeerId, Admission]
    streams: list[PipeStream] = field(default_factory=list)


@dataclass(eq=False)
class _Subscription:
    topic: str
    check: GossipCheck
    send: trio.MemorySendChannel[Gossip]
    receive: trio.MemoryReceiveChannel[Gossip]

    def deliver(self, gossip: Gossip) -> None:
        """Hand over, at the price of the oldest news when the reader lags behind."""
        try:
            self.send.send_nowait(gossip)
        except trio.WouldBlock:
            self.receive.receive_nowait()
            self.send.send_nowait(gossip)


class MemoryNetwork:
    """The world. delay_s: one way, for streams, dials and gossip; may be changed at any time."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self._nodes: dict[PeerId, MemoryNode] = {}
        self._numbers: dict[PeerId, int] = {}
        self._connections: dict[Pair, _Connection] = {}
        self._cuts: set[Pair] = set()
        self._records: dict[bytes, dict[PeerId, None]] = {}

    def node(self, peer_id: PeerId, passport: Callable[[], bytes], admit: Admit) -> MemoryNode:
        """Start a node at /memory/<n>. The same id again, after a kill, is the same machine restarted: same address."""
        if peer_id in self._nodes:
            raise ValueError(f"{peer_id} is up already: kill it first")
        self._numbers.setdefault(peer_id, len(self._numbers))
        node = MemoryNode(self, peer_id, f"/memory/{self._numbers[peer_id]}", passport, admit)
        self._nodes[peer_id] = node
        return node

    def cut(self, one: PeerId, other: PeerId) -> None:
        """Break what connects the two, with all that is in flight, and let no dial through until heal."""
        self._cuts.add(frozenset((one, other)))
        self._disconnect(one, other, "The connection was cut.")

    def heal(self, one: PeerId, other: PeerId) -> None:
        """Let dials through again; nothing reconnects by itself."""
        self._cuts.discard(frozenset((one, other)))

    def kill(self, peer: PeerId) -> None:
        """End a node as SIGKILL does: its handlers stop, its connections break, dials to it are refused."""
        node = self._nodes.pop(peer)
        node._stop()
        for other in list(self._neighbours(peer)):
            self._disconnect(peer, other, "The peer's process ended.")
        for providers in self._records.values():
            providers.pop(peer, None)

    def connected(self, one: PeerId, other: PeerId) -> bool:
        return frozenset((one, other)) in self._connections

    # ── What nodes do, by way of their world ─────────────────────────────────────────────────────────────────────

    async def _dial(self, dialer: MemoryNode, address: PeerAddress) -> None:
        await trio.sleep(2 * self.delay_s)
        peer = address.peer
        if self._nodes.get(dialer.peer_id) is not dialer:
            raise TetherError(UNREACHABLE, "This node was killed.")
        if self.connected(dialer.peer_id, peer):
            return
        known = set(address.addresses) | dialer._known.get(peer, set())
        if not known:
            raise TetherError(UNREACHABLE, f"No address of {peer} is known.")
        if frozenset((dialer.peer_id, peer)) in self._cuts:
            raise TetherError(UNREACHABLE, f"No way to {peer}: the dial timed out.")
        target = self._nodes.get(peer)
        if target is None or target.address not in known:
            raise TetherError(UNREACHABLE, f"Connection to {peer} refused.")
        admitted = {
            peer: target._admit(dialer._passport(), dialer.peer_id),
            dialer.peer_id: dialer._admit(target._passport(), peer),
        }
        self._connections[frozenset((dialer.peer_id, peer))] = _Connection(admitted)
        dialer._learn(PeerAddress(peer, (target.address,)))
        target._learn(PeerAddress(dialer.peer_id, (dialer.address,)))
        for node, other in ((dialer, peer), (target, dialer.peer_id)):
            if not isinstance(admitted[node.peer_id], Guest):
                node._tell(other, up=True)

    async def _open(self, opener: MemoryNode, peer: PeerId, protocol: str) -> Stream:
        await self._dial(opener, PeerAddress(peer))
        connection = self._connections[frozenset((opener.peer_id, peer))]
        target = self._nodes[peer]
        handler, guests = target._handlers.get(protocol, (None, False))
        if handler is None or (isinstance(connection.admitted[peer], Guest) and not guests):
            raise TetherError(UNREACHABLE, f"{peer} does not offer {protocol} to this node.")
        ours, theirs = pipe(opener.peer_id, peer, delay_s=lambda: self.delay_s)
        connection.streams = [stream for stream in connection.streams if not stream.ended]
        connection.streams += (ours, theirs)
        trio.lowlevel.spawn_system_task(target._handle, handler, theirs)
        return ours

    def _disconnect(self, one: PeerId, other: PeerId, why: str) -> None:
        connection = self._connections.pop(frozenset((one, other)), None)
        if connection is None:
            return
        for stream in connection.streams:
            stream.break_(why)
        for peer, gone in ((one, other), (other, one)):
            node = self._nodes.get(peer)
            if node is not None and not isinstance(connection.admitted[peer], Guest):
                node._tell(gone, up=False)

    def _neighbours(self, peer: PeerId) -> Iterator[PeerId]:
        for pair in self._connections:
            if peer in pair:
                yield from pair - {peer}

    def _fellows(self, peer: PeerId) -> list[PeerId]:
        """The connected peers that are members in this one's eyes and it in theirs."""
        return [other for other in self._neighbours(peer) if self._members(peer, other)]

    def _members(self, one: PeerId, other: PeerId) -> bool:
        admitted = self._connections[frozenset((one, other))].admitted
        return not any(isinstance(admission, Guest) for admission in admitted.values())

    def _component(self, peer: PeerId) -> set[PeerId]:
        """Everybody that word of mouth reaches from peer, itself included."""
        reached, frontier = {peer}, deque([peer])
        while frontier:
            fresh = set(self._fellows(frontier.popleft())) - reached
            reached |= fresh
            frontier += sorted(fresh)
        return reached

    def _provide(self, peer: PeerId, key: bytes) -> None:
        self._records.setdefault(key, {})[peer] = None
        if not self._fellows(peer):
            raise TetherError(UNREACHABLE, "Nobody is connected who could keep the record.")

    def _providers(self, asker: PeerId, key: bytes, limit: int) -> list[PeerAddress]:
        reachable = self._component(asker) - {asker}
        found = [peer for peer in self._records.get(key, {}) if peer in reachable]
        return [PeerAddress(peer, self._nodes[peer].addresses()) for peer in found[:limit]]

    async def _spread(self, gossip: Gossip) -> None:
        """Pass a message on from subscriber to subscriber, each judging it before it goes further."""
        await trio.sleep(self.delay_s)
        seen, frontier = {gossip.source}, deque([gossip.source])
        while frontier:
            source = frontier.popleft()
            for peer in self._fellows(source):
                if peer not in seen and self._nodes[peer]._hear(Gossip(gossip.topic, gossip.data, source)):
                    frontier.append(peer)
                seen.add(peer)


class MemoryNode:
    """One node; implements `Network`. rejected: gossip that failed a check here, by the peer that passed it on."""

    def __init__(
        self, world: MemoryNetwork, peer_id: PeerId, address: str, passport: Callable[[], bytes], admit: Admit
    ) -> None:
        self.address = address
        self.rejected: Counter[PeerId] = Counter()
        self._world = world
        self._peer_id = peer_id
        self._passport = passport
        self._admit = admit
        self._handlers: dict[str, tuple[StreamHandler, bool]] = {}
        self._known: dict[PeerId, set[str]] = {}
        self._watchers: list[PeerWatcher] = []
        self._subscriptions: list[_Subscription] = []
        self._running: set[trio.CancelScope] = set()
        self._checks: dict[str, ValueCheck] = {}
        self._values: dict[str, bytes] = {}

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def addresses(self) -> tuple[str, ...]:
        return (self.address,)

    def handle(self, protocol: str, handler: StreamHandler, *, guests: bool = False) -> None:
        self._handlers[protocol] = (handler, guests)

    async def connect(self, address: PeerAddress) -> None:
        await self._world._dial(self, address)

    async def open_stream(self, peer: PeerId, protocol: str, *, priority: int = CONTROL) -> Stream:
        stream = await self._world._open(self, peer, protocol)
        stream.priority = priority
        return stream

    async def disconnect(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        self._world._disconnect(self._peer_id, peer, "The connection was closed.")

    def peers(self) -> frozenset[PeerId]:
        neighbours = (
            self._world._neighbours(self._peer_id) if self._world._nodes.get(self._peer_id) is self else ()
        )
        return frozenset(peer for peer in neighbours if not isinstance(self.admission(peer), Guest))

    def admission(self, peer: PeerId) -> Admission | None:
        connection = self._world._connections.get(frozenset((self._peer_id, peer)))
        return connection.admitted[self._peer_id] if connection else None

    def keep(self, last_use: LastUse) -> None:
        """Connections cost nothing here, so all are kept."""

    def watch(self, watcher: PeerWatcher) -> None:
        self._watchers.append(watcher)

    async def provide(self, key: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._world._provide(self._peer_id, key)

    async def find_providers(self, key: bytes, limit: int = 20) -> tuple[PeerAddress, ...]:
        await trio.sleep(2 * self._world.delay_s)
        found = tuple(self._world._providers(self._peer_id, key, limit))
        for address in found:
            self._learn(address)
        return found

    async def find_peer(self, peer: PeerId) -> PeerAddress | None:
        await trio.sleep(2 * self._world.delay_s)
        if peer not in self._world._component(self._peer_id):
            return None
        found = PeerAddress(peer, self._world._nodes[peer].addresses())
        self._learn(found)
        return found

    def accept_values(self, namespace: str, check: ValueCheck) -> None:
        self._checks[namespace] = check

    async def put_value(self, key: str, value: bytes) -> None:
        await trio.sleep(2 * self._world.delay_s)
        if self._rank(key, value) is None:
            raise TetherError(FIELD_INVALID, "The value is not a valid one for its key.", field="value")
        self._values[key] = value
        fellows = self._world._component(self._peer_id) - {self._peer_id}
        heard = [peer for peer in fellows if self._world._nodes[peer]._keep(key, value)]
        if not heard:
            raise TetherError(UNREACHABLE, "Nobody is connected who could keep the value.")

    async def get_value(self, key: str) -> bytes | None:
        await trio.sleep(2 * self._world.delay_s)
        self._rank(key, b"")
        held = (self._world._nodes[peer]._values.get(key) for peer in self._world._component(self._peer_id))
        ranked = [
            (rank, value)
            for value in held
            if value is not None and (rank := self._rank(key, value)) is not None
        ]
        return max(ranked)[1] if ranked else None

    def forget_value(self, key: str) -> None:
        """Nothing is repeated here."""

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        trio.lowlevel.spawn_system_task(self._world._spread, Gossip(topic, data, self._peer_id))

    @asynccontextmanager
    async def subscribe(
        self, topic: str, check: GossipCheck, limits: TopicLimits = DEFAULT_LIMITS
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Gossip]]:
        send, receive = trio.open_memory_channel[Gossip](limits.backlog)
        subscription = _Subscription(topic, check, send, receive)
        self._subscriptions.append(subscription)
        try:
            with send, receive:
                yield receive
        finally:
            self._subscriptions.remove(subscription)

    def _rank(self, key: str, value: bytes) -> int | None:
        namespace, name = parsed_key(key)
        if (check := self._checks.get(namespace)) is None:
            raise TetherError(FIELD_INVALID, f"This node knows no namespace {namespace}.", field="key")
        return check.rank(name, value) if len(value) <= MAX_VALUE_BYTES else None

    def _keep(self, key: str, value: bytes) -> bool:
        """Whether this node takes a value in; a newer one stays."""
        if parsed_key(key)[0] not in self._checks or (rank := self._rank(key, value)) is None:
            return False
        held = self._values.get(key)
        if held is None or (rank, value) > (self._rank(key, held) or 0, held):
            self._values[key] = value
        return self._values[key] == value

    # ── What the world does to a node ────────────────────────────────────────────────────────────────────────────

    async def _handle(self, handler: StreamHandler, stream: PipeStream) -> None:
        with trio.CancelScope() as scope:
            self._running.add(scope)
            try:
                await handler(stream)
            except TetherError as error:
                stream.break_(error.detail)
            finally:
                self._running.discard(scope)

    def _hear(self, gossip: Gossip) -> bool:
        """Whether this node passes the message on."""
        mine = [subscription for subscription in self._subscriptions if subscription.topic == gossip.topic]
        if not all(subscription.check(gossip) for subscription in mine):
            self.rejected[gossip.source] += 1
            return False
        for subscription in mine:
            subscription.deliver(gossip)
        return bool(mine)

    def _learn(self, address: PeerAddress) -> None:
        self._known.setdefault(address.peer, set()).update(address.addresses)

    def _tell(self, peer: PeerId, *, up: bool) -> None:
        for watcher in self._watchers:
            watcher(peer, up)

    def _stop(self) -> None:
        for scope in list(self._running):
            scope.cancel()
