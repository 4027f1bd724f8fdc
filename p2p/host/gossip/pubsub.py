"""Who follows what, by libp2p's Pubsub; reading, judging and sending of our own."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Protocol, cast

import base58
import trio
from libp2p.abc import IHost, INetStream
from libp2p.network.stream.exceptions import StreamClosed
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.tools.timed_cache.last_seen_cache import LastSeenCache
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from p2p.errors import TetherError
from p2p.host.framing import Frames, framed
from p2p.host.gossip.judge import Judge
from p2p.host.gossip.outbox import Outbox
from p2p.host.gossip.router import MeshRouter
from p2p.host.gossip.seen import Seen
from p2p.host.streams import PubsubStream
from p2p.identity import PeerId, public_key_of
from p2p.transport import Gossip, TopicLimits

MAX_FRAME_BYTES: Final = 256 * 1024
MAX_TOPIC_CHARS: Final = 256
_PREFIX: Final = PUBSUB_SIGNING_PREFIX.encode()


class Audience(Protocol):
    """Who subscribed here."""

    def limits(self, topic: str) -> TopicLimits: ...

    def believe(self, gossip: Gossip) -> bool: ...

    def deliver(self, gossip: Gossip) -> None: ...


class MemberPubsub(Pubsub):
    def __init__(self, host: IHost, router: MeshRouter, audience: Audience) -> None:
        super().__init__(host, router, strict_signing=True)
        self.judge = Judge()
        self._mesh_router = router
        self._audience = audience
        self.seen_messages.stop()
        self.seen_messages = cast(LastSeenCache, Seen(trio.current_time))

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Runs until the peer closes; raises HOSTILE_BYTES and TetherError for what it should not have sent."""
        sender = stream.muxed_conn.peer_id
        source = PeerId(sender.to_base58())
        frames = Frames(cast(PubsubStream, stream).stream, MAX_FRAME_BYTES)
        while (frame := await frames.next()) is not None:
            rpc = rpc_pb2.RPC.FromString(frame)
            for message in rpc.publish:
                self._take(sender, source, message)
            for subscription in rpc.subscriptions[: self.max_subscriptions_per_rpc]:
                if len(subscription.topicid) <= MAX_TOPIC_CHARS:
                    self.handle_subscription(sender, subscription)
            if rpc.HasField("control"):
                rpc.ClearField("senderRecord")
                await self.router.handle_rpc(rpc, sender)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Our own goes out unjudged and is not delivered here."""
        await trio.lowlevel.checkpoint()
        self._mark_msg_seen(msg)
        self._mesh_router.spread(msg_forwarder, msg)

    def _take(self, sender: ID, source: PeerId, message: rpc_pb2.Message) -> None:
        """Take a message once, and pass it on if it is believed.

        Only what its author signed counts as seen: else a forgery that comes first would keep the true one out.
        """
        if not (_well_formed(message) and self._is_subscribed_to_msg(message)):
            return
        topic, now = message.topicIDs[0], trio.current_time()
        if not self.judge.admits(source, topic, len(message.data), self._audience.limits(topic), now):
            return
        if message.from_id == self.my_id.to_bytes():
            return
        if self._is_msg_seen(message):
            self._mesh_router.came_again(sender, message)
            return
        if not _signed_by_its_author(message):
            self.judge.blame(source, now)
            return
        self._mark_msg_seen(message)
        gossip = Gossip(topic, message.data, source)
        if not self._audience.believe(gossip):
            self.judge.blame(source, now)
            return
        self._audience.deliver(gossip)
        self._mesh_router.spread(sender, message)

    async def _handle_new_peer(self, peer_id: ID) -> None:
        """Raises SwarmException and StreamClosed, after which Pubsub tries again while the peer is connected."""
        if peer_id in self.peers:
            return
        stream = await self.host.new_stream(peer_id, list(self.protocols))
        await stream.write(framed(self.get_hello_packet().SerializeToString()))
        self.router.add_peer(peer_id, stream.get_protocol())
        self.peers[peer_id] = stream
        outbox = self.peer_queues[peer_id] = Outbox()
        self.manager.run_task(self.handle_sending_messages, peer_id, stream, outbox)
        await self._send_recent_messages_to_new_peer(peer_id)

    async def handle_sending_messages(self, peer_id: ID, stream: INetStream, queue: RpcQueue) -> None:
        """The one task that writes to a peer, until its outbox is closed."""
        assert isinstance(queue, Outbox)
        try:
            while data := await queue.next():
                await stream.write(data)
        except StreamClosed:
            if self.peers.get(peer_id) is stream:
                self._handle_dead_peer(peer_id)


def _well_formed(message: rpc_pb2.Message) -> bool:
    return (
        len(message.topicIDs) == 1
        and len(message.topicIDs[0]) <= MAX_TOPIC_CHARS
        and len(message.seqno) == 8
        and len(message.from_id) == 38
    )


def _signed_by_its_author(message: rpc_pb2.Message) -> bool:
    """Strict signing: the author's id holds its key, so a key in the message is neither needed nor looked at."""
    unsigned = rpc_pb2.Message(
        from_id=message.from_id, data=message.data, seqno=message.seqno, topicIDs=message.topicIDs
    )
    try:
        _key_of(message.from_id).verify(_PREFIX + unsigned.SerializeToString(), message.signature)
    except (TetherError, BadSignatureError, ValueError):
        return False
    return True


@lru_cache(maxsize=1_024)
def _key_of(author: bytes) -> VerifyKey:
    """Raises TetherError for what is no id."""
    return VerifyKey(public_key_of(PeerId(base58.b58encode(author).decode())))
