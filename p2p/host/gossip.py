"""Gossip: libp2p's GossipSub 1.1 keeps the meshes; what is read, believed and passed on is decided here.

    frame ── parsed ── of a topic we follow? ── signed by its author? ── check() ──> subscribers, then the mesh
                                                                            └ no: counted against who passed it on

Mended on the way: the stock reader verifies a signed address record with every message (the gate has proven more),
validates in a task of its own for each, and remembers without bound; protocols above 1.1 send IDONTWANT to the whole
mesh for every message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import base58
import structlog
import trio
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.score import ScoreParams, TopicScoreParams
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from p2p.errors import TetherError
from p2p.host.errors import HOSTILE_BYTES
from p2p.host.framing import Frames
from p2p.host.idle import IN_USE, UNUSED
from p2p.host.settings import HostSettings
from p2p.host.streams import MuxedStream, NotOffered, PubsubStream
from p2p.host.switch import Switch
from p2p.identity import NodeKey, PeerId, public_key_of
from p2p.transport import Gossip, GossipCheck

BACKLOG: Final = 256
"""What a subscriber that does not read keeps; the oldest goes first."""
MAX_FRAME_BYTES: Final = 256 * 1024
MAX_MESSAGE_BYTES: Final = 64 * 1024
"""An announcement with its credential takes 2 to 4 KiB; a worker that serves many models somewhat more."""
MAX_TOPIC_CHARS: Final = 256
DEGREE, DEGREE_LOW, DEGREE_HIGH = 6, 4, 12
"""Gossipsub's own recommendation."""
MUTE_BELOW: Final = -32.0
"""Each rejected message costs 1 and is forgiven by 2 % a second: nobody is muted for a clock that was once off."""
FORGIVENESS: Final = 0.98

_log = structlog.get_logger()


@dataclass(eq=False)
class _Subscription:
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


class Meshes:
    """Publishes and subscribes. `run` carries libp2p's services; if one of them crashes, so does the host."""

    def __init__(self, key: NodeKey, switch: Switch, settings: HostSettings) -> None:
        self._subscriptions: dict[str, list[_Subscription]] = {}
        self._router = _Router(settings)
        self._pubsub = _Pubsub(cast(IHost, _Home(key, switch)), self._router, self)
        self._own = ID.from_base58(key.node_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with background_trio_service(self._pubsub), background_trio_service(self._router):
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._pubsub.seen_messages.stop()

    def up(self, peer: PeerId) -> None:
        self._pubsub._schedule_peer_stream_retry(ID.from_base58(peer))

    def down(self, peer: PeerId) -> None:
        self._pubsub._handle_dead_peer(ID.from_base58(peer))

    def last_use(self, peer: PeerId) -> float:
        """A link of a mesh is in use."""
        linked = ID.from_string(peer)
        return IN_USE if any(linked in links for links in self._router.mesh.values()) else UNUSED

    async def publish(self, topic: str, data: bytes) -> None:
        """Raises ValueError for a message over 64 KiB: that is a bug of the caller's."""
        if len(data) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a gossip message has at most {MAX_MESSAGE_BYTES} bytes, not {len(data)}")
        await self._pubsub.publish(topic, data)

    @asynccontextmanager
    async def subscribe(
        self, topic: str, check: GossipCheck
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Gossip]]:
        send, receive = trio.open_memory_channel[Gossip](BACKLOG)
        with send, receive, self._registered(topic, _Subscription(check, send, receive)):
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

    def believe(self, gossip: Gossip) -> bool:
        return all(one.check(gossip) for one in self._subscriptions.get(gossip.topic, ()))

    def deliver(self, gossip: Gossip) -> None:
        for subscription in self._subscriptions.get(gossip.topic, ()):
            subscription.deliver(gossip)


class _Pubsub(Pubsub):
    """Who follows what, and the streams; reading and judging of our own."""

    def __init__(self, host: IHost, router: _Router, meshes: Meshes) -> None:
        super().__init__(host, router, strict_signing=True)
        assert router.scorer is not None
        self._scores = router.scorer
        self._meshes = meshes

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Runs until the peer closes; raises HOSTILE_BYTES and TetherError for what it should not have sent."""
        sender = stream.muxed_conn.peer_id
        frames = Frames(cast(PubsubStream, stream).stream, MAX_FRAME_BYTES)
        while (frame := await frames.next()) is not None:
            rpc = rpc_pb2.RPC.FromString(frame)
            rpc.ClearField("senderRecord")
            for message in rpc.publish:
                await self.push_msg(sender, message)
            for subscription in rpc.subscriptions[: self.max_subscriptions_per_rpc]:
                if len(subscription.topicid) <= MAX_TOPIC_CHARS:
                    self.handle_subscription(sender, subscription)
            if rpc.HasField("control"):
                await self.router.handle_rpc(rpc, sender)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Take a message once, and pass it on if it is believed. Our own goes out unjudged and is not delivered here.

        Only what its author signed counts as seen: else a forgery that comes first would keep the true one out.
        """
        if msg_forwarder == self.my_id:
            self._mark_msg_seen(msg)
            await self.router.publish(msg_forwarder, msg)
            return
        if not (_well_formed(msg) and self._is_subscribed_to_msg(msg)):
            return
        gossip = Gossip(msg.topicIDs[0], msg.data, PeerId(msg_forwarder.to_base58()))
        muted = not self._scores.allow_publish(msg_forwarder, [gossip.topic])
        if muted or self._is_msg_seen(msg) or ID(msg.from_id) == self.my_id:
            return
        if not _signed_by_its_author(msg):
            self._scores.on_invalid_message(msg_forwarder, gossip.topic)
            return
        self._mark_msg_seen(msg)
        if not self._meshes.believe(gossip):
            self._scores.on_invalid_message(msg_forwarder, gossip.topic)
            return
        self._meshes.deliver(gossip)
        await self.router.publish(msg_forwarder, msg)


class _Router(GossipSub):
    """The meshes. Passing a message on is all of `publish`: the stock one also keeps lists that nobody empties."""

    def __init__(self, settings: HostSettings) -> None:
        super().__init__(
            protocols=[PROTOCOL_ID_V11],
            degree=DEGREE,
            degree_low=DEGREE_LOW,
            degree_high=DEGREE_HIGH,
            heartbeat_interval=settings.heartbeat_s,
            score_params=ScoreParams(
                p4_invalid_messages=TopicScoreParams(weight=1.0, cap=100.0, decay=FORGIVENESS),
                publish_threshold=MUTE_BELOW,
                gossip_threshold=MUTE_BELOW,
                graylist_threshold=MUTE_BELOW,
            ),
            adaptive_gossip_enabled=False,
            eclipse_protection_enabled=False,
            max_messages_per_topic_per_second=settings.gossip_per_s,
            pending_messages_ttl=0.0,
        )

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        assert self.pubsub is not None
        if not self._check_spam_protection(msg_forwarder, pubsub_msg):
            return
        self.mcache.put(pubsub_msg)
        rpc = rpc_pb2.RPC(publish=[pubsub_msg])
        message_id = self.pubsub.get_message_id(pubsub_msg)
        for peer in self._get_peers_to_send(
            pubsub_msg.topicIDs, msg_forwarder, ID(pubsub_msg.from_id), message_id
        ):
            if peer in self.pubsub.peers:
                self.send_rpc(peer, rpc)


def _well_formed(message: rpc_pb2.Message) -> bool:
    return (
        len(message.topicIDs) == 1
        and len(message.topicIDs[0]) <= MAX_TOPIC_CHARS
        and len(message.data) <= MAX_MESSAGE_BYTES
        and len(message.seqno) == 8
        and len(message.from_id) == 38
    )


def _signed_by_its_author(message: rpc_pb2.Message) -> bool:
    """Strict signing: the author's id holds its key, so a key in the message is neither needed nor looked at."""
    unsigned = rpc_pb2.Message(
        from_id=message.from_id, data=message.data, seqno=message.seqno, topicIDs=message.topicIDs
    )
    signed = PUBSUB_SIGNING_PREFIX.encode() + unsigned.SerializeToString()
    try:
        public = public_key_of(PeerId(base58.b58encode(message.from_id).decode()))
        VerifyKey(public).verify(signed, message.signature)
    except (TetherError, BadSignatureError, ValueError):
        return False
    return True


class _Home:
    """What libp2p's Pubsub asks of its host, served by our switch. It is `IHost` and `INetwork` as far as that goes."""

    def __init__(self, key: NodeKey, switch: Switch) -> None:
        self._keys = create_new_key_pair(key.seed)
        self._id = ID.from_pubkey(self._keys.public_key)
        self._switch = switch
        self._peerstore = PeerStore()

    def get_id(self) -> ID:
        return self._id

    def get_private_key(self) -> Any:
        return self._keys.private_key

    def get_public_key(self) -> Any:
        return self._keys.public_key

    def get_peerstore(self) -> PeerStore:
        return self._peerstore

    def get_addrs(self) -> list[Multiaddr]:
        return []

    def get_network(self) -> _Home:
        return self

    def register_notifee(self, notifee: object) -> None:
        """Nothing comes from there: `Meshes.up` and `down` do it, for members alone."""

    def get_connections(self, peer: ID) -> Sequence[_Standing]:
        return [_Standing()] if PeerId(peer.to_base58()) in self._switch.peers() else []

    def set_stream_handler(self, protocol: TProtocol, handler: StreamHandlerFn) -> None:
        async def answer(stream: MuxedStream, protocol: str) -> None:
            try:
                await handler(cast(INetStream, PubsubStream(stream, protocol)))
            except (*HOSTILE_BYTES, TetherError) as error:
                _log.debug("gossip stream ended", peer=stream.peer, cause=type(error).__name__)

        self._switch.handle_raw(str(protocol), answer)

    async def new_stream(self, peer: ID, protocols: Sequence[TProtocol]) -> INetStream:
        """Raises SwarmException where another try makes sense, and NotOffered, after which Pubsub gives up."""
        try:
            stream, protocol = await self._switch.open(
                PeerId(peer.to_base58()), [str(one) for one in protocols]
            )
        except NotOffered:
            raise
        except TetherError as error:
            raise SwarmException(error.detail) from error
        return cast(INetStream, PubsubStream(stream, protocol))


class _Standing:
    """A connection, as far as Pubsub looks: it is there."""

    muxed_conn: None = None
