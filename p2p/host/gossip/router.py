"""The meshes, by libp2p's GossipSub; what this node publishes goes to all followers, the rest to the mesh."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

import trio
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.mcache import MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.score import ScoreParams
from libp2p.pubsub.utils import safe_bytes_from_hex

from p2p.host.framing import framed
from p2p.host.gossip.outbox import Outbox
from p2p.host.gossip.supplies import Supplies
from p2p.host.settings import HostSettings
from p2p.transport import TopicLimits

DEGREE, DEGREE_LOW, DEGREE_HIGH = 3, 2, 4
"""Half of Gossipsub's 6, 4, 12: a message's author sends it to all followers that it is connected to (they are some
twenty), so the mesh only has to reach the few that it is not, and each link more is a copy of everything."""
FLOOD: Final = 32
"""Followers up to which the author sends to all of them."""
LAZY: Final = 2
"""Followers that are told each second which messages there were: what was lost comes that way."""
SEQNO_BYTES: Final = 8
"""At the end of a message's id; before it is the author."""
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
        self._supplies = Supplies()
        self._sources: dict[bytes, ID] = {}
        self.mcache = _Cache(self.mcache.window_size, self.mcache.history_size)

    def spread(self, source: ID, message: rpc_pb2.Message) -> None:
        """Put a message into the outboxes of those who should have it: serialized once, whoever gets it."""
        assert self.pubsub is not None
        topic = message.topicIDs[0]
        self.mcache.put(message)
        self._sources[self.pubsub.get_message_id(message)] = source
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
        takers = self._get_peers_to_send([topic], source, author)
        if len(self.pubsub.peer_topics.get(topic, ())) > FLOOD:
            return tuple(takers)
        now = trio.current_time()
        return tuple(peer for peer in takers if not self._supplies.has(peer, author.to_bytes(), now))

    def came_again(self, sender: ID, message: rpc_pb2.Message) -> None:
        """A copy of what the author itself brought: say that none is needed."""
        assert self.pubsub is not None
        author = bytes(message.from_id)
        first = self._sources.get(self.pubsub.get_message_id(message))
        if first is None or sender == first or first.to_bytes() != author:
            return
        if self._supplies.say(sender, author, trio.current_time()):
            known = rpc_pb2.ControlIHave(topicID=message.topicIDs[0], messageIDs=[author + message.seqno])
            self.send_rpc(sender, rpc_pb2.RPC(control=rpc_pb2.ControlMessage(ihave=[known])))

    def remove_peer(self, peer_id: ID) -> None:
        super().remove_peer(peer_id)
        self._supplies.forget(peer_id)

    def send_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
        if self.pubsub is not None and (outbox := self.pubsub.peer_queues.get(peer_id)) is not None:
            outbox.push(rpc, priority)

    async def send_recent_messages(self, peer_id: ID, topic: str) -> None:
        """A follower that just came gets what it missed by the same way as everything else."""
        self._send_cached(peer_id, self.mcache.window(topic))

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        """What the peer names although this node had it from elsewhere or passed it on, it gets without this node."""
        if ihave_msg.topicID not in self.mesh:
            return
        del ihave_msg.messageIDs[MAX_IDS:]
        now = trio.current_time()
        for message_id in filter(None, map(safe_bytes_from_hex, ihave_msg.messageIDs)):
            if message_id in self.mcache.msgs and self._sources.get(message_id) != sender_peer_id:
                self._supplies.said(sender_peer_id, message_id[:-SEQNO_BYTES], now)
        await super().handle_ihave(ihave_msg, sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        if self._check_iwant_rate_limit(sender_peer_id):
            wanted = set(filter(None, map(safe_bytes_from_hex, iwant_msg.messageIDs[:MAX_IDS])))
            for message_id in wanted:
                self._supplies.lacked(sender_peer_id, message_id[:-SEQNO_BYTES])
            self._send_cached(sender_peer_id, wanted)

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

    # ── What the stock router does each second otherwise, and need not do ────────────────────────────────────────

    def gossip_heartbeat(self) -> defaultdict[ID, dict[str, list[bytes]]]:
        """Tell a few followers, in the mesh or not, which messages there were, but for those that they brought.

        The same few for all topics, so that it is one message for each.
        """
        assert self.pubsub is not None
        told: defaultdict[ID, dict[str, list[bytes]]] = defaultdict(dict)
        luck = {peer: random.random() for peer in self.peer_protocol}
        for topic in self.mesh:
            message_ids = self.mcache.window(topic)
            followers = [peer for peer in self.pubsub.peer_topics.get(topic, ()) if peer in luck]
            for peer in sorted(followers, key=luck.__getitem__)[: LAZY if message_ids else 0]:
                own = peer.to_bytes()
                news = [
                    one for one in message_ids if self._sources.get(one) != peer and one[:-SEQNO_BYTES] != own
                ]
                if news:
                    told[peer][topic] = news[-MAX_IDS:]
        self._sources = {one: self._sources[one] for one in self.mcache.msgs if one in self._sources}
        return told

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
