"""The front: publishes, and hands what is believed to subscribers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import cast

import trio
from libp2p.abc import IHost
from libp2p.peer.id import ID
from libp2p.tools.anyio_service import background_trio_service

from p2p.host.gossip.home import Home
from p2p.host.gossip.pubsub import MemberPubsub
from p2p.host.gossip.router import MeshRouter
from p2p.host.idle import IN_USE, UNUSED
from p2p.host.settings import HostSettings
from p2p.host.switch import Switch
from p2p.identity import NodeKey, PeerId
from p2p.transport import DEFAULT_LIMITS, Gossip, GossipCheck, TopicLimits


@dataclass(eq=False)
class _Subscription:
    check: GossipCheck
    limits: TopicLimits
    send: trio.MemorySendChannel[Gossip]
    receive: trio.MemoryReceiveChannel[Gossip]

    def deliver(self, gossip: Gossip) -> None:
        """Hand over, at the price of the oldest news when the reader lags behind."""
        try:
            self.send.send_nowait(gossip)
        except trio.WouldBlock:
            self.receive.receive_nowait()
            self.send.send_nowait(gossip)


class Meshes:
    """Publishes and subscribes. `run` carries libp2p's services; if one of them crashes, so does the host."""

    def __init__(self, key: NodeKey, switch: Switch, settings: HostSettings) -> None:
        self._subscriptions: dict[str, list[_Subscription]] = {}
        self._router = MeshRouter(settings, self.limits)
        self._pubsub = MemberPubsub(cast(IHost, Home(key, switch)), self._router, self)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with background_trio_service(self._pubsub), background_trio_service(self._router):
            task_status.started()
            await trio.sleep_forever()

    def up(self, peer: PeerId) -> None:
        self._pubsub._schedule_peer_stream_retry(ID.from_base58(peer))

    def down(self, peer: PeerId) -> None:
        self._pubsub._handle_dead_peer(ID.from_base58(peer))

    def last_use(self, peer: PeerId) -> float:
        """A link of a mesh is in use, and so is one to a follower that this node sends its own messages to."""
        linked = ID.from_string(peer)
        used = any(linked in self._router.links(topic) for topic in self._router.mesh)
        return IN_USE if used else UNUSED

    async def publish(self, topic: str, data: bytes) -> None:
        """Raises ValueError for a message over the topic's limit: that is a bug of the caller's."""
        most = self.limits(topic).message_bytes
        if len(data) > most:
            raise ValueError(f"a gossip message has at most {most} bytes here, not {len(data)}")
        await self._pubsub.publish(topic, data)

    @asynccontextmanager
    async def subscribe(
        self, topic: str, check: GossipCheck, limits: TopicLimits = DEFAULT_LIMITS
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Gossip]]:
        send, receive = trio.open_memory_channel[Gossip](limits.backlog)
        with send, receive, self._registered(topic, _Subscription(check, limits, send, receive)):
            try:
                await self._pubsub.subscribe(topic)
                yield receive
            finally:
                if len(self._subscriptions[topic]) == 1:
                    with trio.CancelScope(shield=True):
                        await self._pubsub.unsubscribe(topic)

    @contextmanager
    def _registered(self, topic: str, subscription: _Subscription) -> Iterator[None]:
        self._subscriptions.setdefault(topic, []).append(subscription)
        try:
            yield
        finally:
            self._subscriptions[topic].remove(subscription)
            if not self._subscriptions[topic]:
                del self._subscriptions[topic]

    def limits(self, topic: str) -> TopicLimits:
        """Those of its first subscriber here."""
        subscriptions = self._subscriptions.get(topic)
        return subscriptions[0].limits if subscriptions else DEFAULT_LIMITS

    def believe(self, gossip: Gossip) -> bool:
        return all(one.check(gossip) for one in self._subscriptions.get(gossip.topic, ()))

    def deliver(self, gossip: Gossip) -> None:
        for subscription in self._subscriptions.get(gossip.topic, ()):
            subscription.deliver(gossip)
