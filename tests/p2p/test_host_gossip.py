"""Gossip over real hosts: delivered to all, judged by each, bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import pairwise

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from p2p.errors import UNREACHABLE, TetherError
from p2p.host.host import Host
from p2p.identity import PeerId
from p2p.membership import Admission
from p2p.transport import Gossip
from tests.p2p.hosts import address, open_node, open_nodes, until
from tests.swarms import MadeSwarm, make_swarm

Channel = trio.MemoryReceiveChannel[Gossip]


def believe(_: Gossip) -> bool:
    return True


@asynccontextmanager
async def subscribed(hosts: list[Host], topic: str) -> AsyncIterator[list[Channel]]:
    """All of them follow the topic, and each one's mesh has a neighbour."""
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(host.subscribe(topic, believe)) for host in hosts]
        await until(lambda: all(host._meshes._router.mesh.get(topic) for host in hosts))
        yield channels


def grown(items: list[Gossip], count: int) -> bool:
    return len(items) > count


async def chain(hosts: list[Host]) -> None:
    for left, right in pairwise(hosts):
        await right.connect(address(left))


async def test_a_message_reaches_every_subscriber_once_and_not_its_author() -> None:
    swarm = make_swarm(5)
    async with open_nodes(swarm, 5) as hosts:
        await chain(hosts)
        async with subscribed(hosts, "t") as channels:
            await hosts[0].publish("t", b"news")
            for channel in channels[1:]:
                assert (await channel.receive()).data == b"news"
            assert channels[0].statistics().current_buffer_used == 0
            await hosts[4].publish("t", b"and back")
            heard = [await channel.receive() for channel in channels[:4]]
            assert [gossip.data for gossip in heard] == [b"and back"] * 4
            assert all(gossip.source != host.peer_id for gossip, host in zip(heard, hosts, strict=False))


def all_but(swarm: MadeSwarm, shut_out: int) -> Callable[[bytes, PeerId], Admission]:
    """For a topology that the DHT does not complete."""

    def admit(passport: bytes, peer: PeerId) -> Admission:
        if peer == swarm.keys[shut_out].node_id:
            raise TetherError(UNREACHABLE, "Not this one.")
        return swarm.admit(passport, peer)

    return admit


async def test_a_message_that_a_node_does_not_believe_goes_no_further_and_counts_against_its_source() -> None:
    swarm = make_swarm(3)
    async with (
        open_node(swarm, 0, admit=all_but(swarm, 2)) as alice,
        open_node(swarm, 1) as bob,
        open_node(swarm, 2, admit=all_but(swarm, 0)) as carol,
    ):
        await chain([alice, bob, carol])
        rejected: list[Gossip] = []

        def doubt(gossip: Gossip) -> bool:
            if gossip.data == b"forged":
                rejected.append(gossip)
            return gossip.data != b"forged"

        async with (
            alice.subscribe("t", believe),
            bob.subscribe("t", doubt) as at_bob,
            carol.subscribe("t", believe) as at_carol,
        ):
            await until(lambda: all(host._meshes._router.mesh.get("t") for host in (alice, bob, carol)))
            await alice.publish("t", b"forged")
            await alice.publish("t", b"true")
            assert (await at_bob.receive()).data == b"true"
            assert (await at_carol.receive()).data == b"true"
            assert [gossip.source for gossip in rejected] == [alice.peer_id]
            while not bob._meshes._pubsub.judge.muted(alice.peer_id, trio.current_time()):
                before = len(rejected)
                await alice.publish("t", b"forged")
                await until(partial(grown, rejected, before))
            await alice.publish("t", b"true again")
            await carol.publish("t", b"of somebody else")
            assert (await at_bob.receive()).data == b"of somebody else"


async def test_publishing_with_nobody_there_is_no_error() -> None:
    async with open_node(make_swarm(1), 0) as alice:
        await alice.publish("t", b"alone")
        async with alice.subscribe("t", believe) as channel:
            await alice.publish("t", b"still alone")
            assert channel.statistics().current_buffer_used == 0


async def test_who_has_not_joined_a_topic_may_publish_to_it() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        await bob.connect(address(alice))
        async with bob.subscribe("t", believe) as at_bob:
            await until(lambda: "t" in alice._meshes._pubsub.peer_topics)
            await alice.publish("t", b"hello")
            assert (await at_bob.receive()).data == b"hello"


async def test_leaving_a_topic_ends_its_news() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as hosts:
        await chain(hosts)
        async with subscribed(hosts, "t") as channels:
            await hosts[0].publish("t", b"one")
            assert (await channels[1].receive()).data == b"one"
        await until(lambda: not hosts[0]._meshes._pubsub.peer_topics.get("t"))
        with pytest.raises(trio.ClosedResourceError):
            channels[1].receive_nowait()


async def test_two_subscribers_of_one_topic_both_hear_and_both_must_believe() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        await bob.connect(address(alice))
        async with (
            bob.subscribe("t", lambda gossip: gossip.data != b"no") as one,
            bob.subscribe("t", believe) as two,
        ):
            await until(lambda: "t" in alice._meshes._pubsub.peer_topics)
            await alice.publish("t", b"no")
            await alice.publish("t", b"yes")
            assert (await one.receive()).data == (await two.receive()).data == b"yes"


async def test_a_subscriber_that_lags_loses_the_oldest_news() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as hosts:
        await chain(hosts)
        seen: Counter[bytes] = Counter()

        def count(gossip: Gossip) -> bool:
            seen[gossip.data] += 1
            return True

        async with hosts[0].subscribe("t", believe), hosts[1].subscribe("t", count) as channel:
            await until(lambda: all(host._meshes._router.mesh.get("t") for host in hosts))
            for number in range(300):
                await hosts[0].publish("t", b"%d" % number)
                await until(partial(seen.__contains__, b"%d" % number))
            heard = []
            while channel.statistics().current_buffer_used:
                heard.append(channel.receive_nowait().data)
        assert heard == [b"%d" % number for number in range(44, 300)]


async def test_the_mesh_outlives_a_connection_that_was_replaced() -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        await alice.connect(address(bob))
        async with subscribed([alice, bob], "t") as (_, at_bob):
            for number in range(3):
                await alice.disconnect(bob.peer_id)
                await until(lambda: alice.peer_id not in bob.peers())
                await alice.connect(address(bob))
                await until(lambda: bool(alice._meshes._router.mesh["t"]))
                await alice.publish("t", b"%d" % number)
                assert (await at_bob.receive()).data == b"%d" % number


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message.ClearField("signature"),
        lambda message: setattr(message, "signature", b"\x00" * 64),
        lambda message: setattr(message, "data", b"altered"),
        lambda message: setattr(message, "from_id", b"\x00" * 38),
        lambda message: setattr(message, "from_id", b""),
        lambda message: setattr(message, "seqno", b"1"),
        lambda message: message.topicIDs.append("another"),
        lambda message: setattr(message, "data", bytes(100_000)),
    ],
)
async def test_a_message_that_its_author_did_not_sign_reaches_nobody(
    change: Callable[[rpc_pb2.Message], None],
) -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as hosts:
        await chain(hosts)
        async with subscribed(hosts, "t") as (_, at_bob):
            router = hosts[0]._meshes._router
            (bob,) = router.mesh["t"]
            await hosts[0].publish("t", b"first")
            assert (await at_bob.receive()).data == b"first"
            (message,) = router.mcache.msgs.values()
            altered = rpc_pb2.Message()
            altered.CopyFrom(message)
            altered.seqno = b"\x7f" * 8
            change(altered)
            router.send_rpc(bob, rpc_pb2.RPC(publish=[altered]))
            await hosts[0].publish("t", b"last")
            assert (await at_bob.receive()).data == b"last"


@pytest.mark.parametrize(
    "junk", [b"\xff\xff\xff\xff\x7f", b"\x03abc", b"\x05\x0a\xff\xff\xff\x7f", b"\x80" * 20]
)
async def test_junk_on_a_gossip_stream_ends_that_stream_alone(junk: bytes) -> None:
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        await alice.connect(address(bob))
        stream = await alice.open_stream(bob.peer_id, "/meshsub/1.1.0")
        await stream.write(junk)
        await stream.close()
        with trio.fail_after(5), suppress(TetherError):
            while await stream.read(100):
                pass
        async with subscribed([alice, bob], "t") as (_, at_bob):
            await alice.publish("t", b"fine")
            assert (await at_bob.receive()).data == b"fine"


async def test_a_forgery_that_comes_first_does_not_keep_the_true_message_out() -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 3) as (alice, bob, forger):
        await alice.connect(address(bob))
        await forger.connect(address(bob))
        async with subscribed([alice, bob, forger], "t") as (_, at_bob, _):
            author = alice._meshes._pubsub
            forged = rpc_pb2.Message(
                from_id=author.my_id.to_bytes(),
                seqno=(author.counter + 1).to_bytes(8),
                topicIDs=["t"],
                data=b"false",
                signature=bytes(64),
            )
            to_bob = ID.from_base58(bob.peer_id)
            forger._meshes._router.send_rpc(to_bob, rpc_pb2.RPC(publish=[forged]))
            await forger.publish("t", b"behind the forgery")
            assert (await at_bob.receive()).data == b"behind the forgery"
            await alice.publish("t", b"true")
            assert (await at_bob.receive()).data == b"true"
