"""Gossip's limits over real hosts: of size, of rate, and of what waits for a peer that does not read."""

from __future__ import annotations

import trio
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from p2p.host.gossip import pubsub
from p2p.host.host import Host
from p2p.transport import Gossip, TopicLimits
from tests.p2p.hosts import address, open_nodes, until
from tests.swarms import make_swarm

SMALL = TopicLimits(message_bytes=100, per_s=1.0, burst=5, backlog=3)


def believe(_: Gossip) -> bool:
    return True


async def acquainted(*hosts: Host) -> None:
    for host in hosts[1:]:
        await host.connect(address(hosts[0]))


def knows(host: Host, topic: str, count: int) -> bool:
    return len(host._meshes._pubsub.peer_topics.get(topic, ())) == count


def marks(host: Host, of: Host) -> float:
    return host._meshes._pubsub.judge._marks.weight(of.peer_id, trio.current_time())


async def test_what_exceeds_a_topics_limits_is_dropped_and_counts_against_who_sent_it() -> None:
    async with open_nodes(make_swarm(2), 2) as (alice, bob):
        await acquainted(alice, bob)
        async with bob.subscribe("t", believe, SMALL) as at_bob:
            await until(lambda: knows(alice, "t", 1))
            await alice.publish("t", bytes(101))
            await until(lambda: marks(bob, alice) > 0.9)
            for number in range(8):
                await alice.publish("t", b"%d" % number)
            await until(lambda: marks(bob, alice) > 1.6)
            assert at_bob.statistics().current_buffer_used <= SMALL.backlog


async def test_a_peer_that_does_not_read_loses_old_messages_and_holds_up_nobody() -> None:
    async with open_nodes(make_swarm(3), 3) as (alice, bob, mute):
        await acquainted(alice, bob, mute)
        limits = TopicLimits(per_s=1e6, burst=1_000_000, backlog=16)
        async with (
            alice.subscribe("t", believe, limits),
            bob.subscribe("t", believe, limits) as at_bob,
            mute.subscribe("t", believe),
        ):
            await until(lambda: knows(alice, "t", 2))
            outboxes = alice._meshes._pubsub.peer_queues
            stuck = outboxes[ID.from_base58(mute.peer_id)]
            alice._meshes._pubsub.peers[ID.from_base58(mute.peer_id)].write = _never  # type: ignore[method-assign]
            for number in range(64):
                await alice.publish("t", b"%d" % number)
                assert (await at_bob.receive()).data == b"%d" % number
            assert 0 < len(stuck._frames) <= limits.backlog


async def _never(_data: bytes) -> None:
    await trio.sleep_forever()


async def test_a_signature_is_verified_once_however_often_its_message_comes() -> None:
    pubsub._key_of.cache_clear()
    async with open_nodes(make_swarm(6), 6) as hosts:
        for host in hosts[1:]:
            await host.connect(address(hosts[0]))
        async with trio.open_nursery() as nursery:
            channels = [
                await nursery.start(_subscribed, host)  # one mesh of six, full of copies
                for host in hosts
            ]
            await until(lambda: all(len(host.peers()) >= 1 for host in hosts) and knows(hosts[0], "t", 5))
            for number in range(5):
                await hosts[0].publish("t", b"%d" % number)
            for channel in channels[1:]:
                for _ in range(5):
                    await channel.receive()
            nursery.cancel_scope.cancel()
    looked_up = pubsub._key_of.cache_info()
    assert looked_up.hits + looked_up.misses == 5 * 5


async def _subscribed(host: Host, *, task_status: trio.TaskStatus[trio.MemoryReceiveChannel[Gossip]]) -> None:
    async with host.subscribe("t", believe) as news:
        task_status.started(news)
        await trio.sleep_forever()


async def test_a_request_for_more_ids_than_anybody_has_is_cut_short() -> None:
    async with open_nodes(make_swarm(2), 2) as (alice, bob):
        await acquainted(alice, bob)
        async with alice.subscribe("t", believe), bob.subscribe("t", believe) as at_bob:
            await until(lambda: knows(alice, "t", 1) and knows(bob, "t", 1))
            await alice.publish("t", b"once")
            assert (await at_bob.receive()).data == b"once"
            (message_id,) = alice._meshes._router.mcache.msgs
            want = rpc_pb2.ControlIWant(messageIDs=[message_id] * 5_000)
            await alice._meshes._router.handle_iwant(want, ID.from_base58(bob.peer_id))
            outbox = alice._meshes._pubsub.peer_queues[ID.from_base58(bob.peer_id)]
            assert len(outbox) <= 1
