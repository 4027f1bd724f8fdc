"""The meshes, by libp2p's GossipSub; what this node publishes goes to all followers, the rest to the mesh."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.mcache import MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.score import ScoreParams
from libp2p.pubsub.utils import safe_bytes_from_hex

from p2p.host.framing import framed
from p2p.host.gossip.outbox import Outbox
from p2p.host.settings import HostSettings
from p2p.transport import TopicLimits

DEGREE, DEGREE_LOW, DEGREE_HIGH = 3, 2, 4
"""Half of Gossipsub's 6, 4, 12: a message's author sends it to all followers that it is connected to (they are some
twenty), so the mesh only has to reach the few that it is not, and each link more is a copy of everything."""
FLOOD: Final = 32
"""Followers up to which the author sends to all of them."""
LAZY: Final = 2
"""Followers outside the mesh that are told each second which messages there were: what was lost comes that way."""
MAX_IDS: Final = 512
"""Of messages, in one control message: five times what a busy topic has in its window."""
MAX_CACHED: Final = 2_048
MAX_CACHED_BYTES: Final = 4 << 20
"""Messages of the last seconds, for who missed them; beyond that, they cannot be asked for."""


class MeshRouter(GossipSub):
    def __init__(self, settings: HostSettings, limits: Callable[[str], TopicLimits]) -> None:
        super().__init__(
            protocols=[PROTOCOL_ID_V11],
            degree=DEGREE,
            degree_low=DEGREE_LOW,
            degree_high=DEGREE_HIGH,
            heartbeat_interval=settings.heartbeat_s,
            score_params=ScoreParams(),
            adaptive_gossip_enabled=False,
            eclipse_protection_enabled=False,
            pending_messages_ttl=0.0,
        )
        self._limits = limits
        self.mcache = _Cache(self.mcache.window_size, self.mcache.history_size)

    def spread(self, source: ID, message: rpc_pb2.Message) -> None:
        """Put a message into the outboxes of those who should have it: serialized once, whoever gets it."""
        assert self.pubsub is not None
        topic = message.topicIDs[0]
        self.mcache.put(message)
        frame = framed(rpc_pb2.RPC(publish=[message]).SerializeToString())
        backlog = self._limits(topic).backlog
        for peer in self._takers(topic, source, ID(message.from_id)):
            outbox = self.pubsub.peer_queues.get(peer)
            if isinstance(outbox, Outbox):
                outbox.put(topic, frame, backlog)

    def links(self, topic: str) -> set[ID]:
        """To whom messages of a topic that this node follows may go."""
        assert self.pubsub is not None
        followers = self.pubsub.peer_topics.get(topic, set())
        return followers if len(followers) <= FLOOD else self.mesh[topic]

    def _takers(self, topic: str, source: ID, author: ID) -> tuple[ID, ...]:
        assert self.pubsub is not None
        if source == self.pubsub.my_id and topic in self.mesh:
            return tuple(self.links(topic))
        return tuple(self._get_peers_to_send([topic], source, author))

    def send_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
        if self.pubsub is not None and (outbox := self.pubsub.peer_queues.get(peer_id)) is not None:
            outbox.push(rpc, priority)

    async def send_recent_messages(self, peer_id: ID, topic: str) -> None:
        """A follower that just came gets what it missed by the same way as everything else."""
        self._send_cached(peer_id, self.mcache.window(topic))

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        if ihave_msg.topicID in self.mesh:
            del ihave_msg.messageIDs[MAX_IDS:]
            await super().handle_ihave(ihave_msg, sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        if self._check_iwant_rate_limit(sender_peer_id):
            wanted = {safe_bytes_from_hex(text) for text in iwant_msg.messageIDs[:MAX_IDS]}
            self._send_cached(sender_peer_id, [one for one in wanted if one is not None])

    async def emit_control_message(self, control_msg: rpc_pb2.ControlMessage, to_peer: ID) -> None:
        """Without the signed record of addresses that the stock one adds: members know more from the gate."""
        self.send_rpc(to_peer, rpc_pb2.RPC(control=control_msg), priority=True)

    def _send_cached(self, peer: ID, message_ids: Iterable[bytes]) -> None:
        assert isinstance(self.pubsub, Pubsub)
        outbox = self.pubsub.peer_queues.get(peer)
        for message_id in message_ids:
            message = self.mcache.get(message_id)
            if message is not None and isinstance(outbox, Outbox):
                topic = message.topicIDs[0]
                frame = framed(rpc_pb2.RPC(publish=[message]).SerializeToString())
                outbox.put(topic, frame, self._limits(topic).backlog)

    # ── What the stock router does each second and need not ──────────────────────────────────────────────────────

    def _get_adaptive_gossip_peers_count(self, topic: str, total_peers: int) -> int:
        return min(LAZY, total_peers)

    def _perform_opportunistic_grafting(self, topic: str, peers_to_graft: defaultdict[ID, list[str]]) -> int:
        """Scores of our own mute a peer; all others are equal, and more links are more copies."""
        return 0

    async def _maintain_mesh_quality(self, topic: str) -> None:
        """As above."""


class _Cache(MessageCache):
    """The stock one, bounded."""

    def __init__(self, window_size: int, history_size: int) -> None:
        super().__init__(window_size, history_size)
        self._bytes = 0

    def put(self, msg: rpc_pb2.Message) -> None:
        size = len(msg.data)
        if len(self.msgs) < MAX_CACHED and self._bytes + size <= MAX_CACHED_BYTES:
            self._bytes += size
            super().put(msg)

    def shift(self) -> None:
        super().shift()
        self._bytes = sum(len(message.data) for message in self.msgs.values())
