from __future__ import annotations

import msgspec
import pytest
import trio
from trio import Nursery
from trio.testing import MockClock

from p2p.errors import ANNOUNCE_INVALID, CAPACITY, ROLE_FORBIDDEN, TetherError
from p2p.messages import HEALTH, PRESENCE, Role, ServedModel
from p2p.wire import encode
from tests.topics.town import Town, until
from tests.topics.world import SWARM, TINY, here, person
from topics import names
from topics.announce import MAX_PAYLOAD_BYTES

WORKER: tuple[Role, ...] = ("gateway", "worker")


async def test_a_lone_founder_leads_at_once(nursery: Nursery, autojump_clock: MockClock) -> None:
    town = Town(nursery)
    founder = await town.start("founder")
    assert trio.current_time() < 0.5
    assert founder.leader == founder.peer
    assert founder.sees(founder) == "alive"


async def test_six_nodes_agree_on_a_leader_and_see_each_other(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    await town.start("founder")
    for name in "abc":
        await town.start(name, via="founder")
    for name in "de":
        await town.start(name, via="founder", roles=WORKER)
    nodes = list(town.nodes.values())
    await until(lambda: all(one.sees(other) == "alive" for one in nodes for other in nodes), 15)
    await until(lambda: all(len(node.swarm.leaders()) == 4 for node in nodes), 30)  # after a season
    assert len({tuple(node.swarm.leaders()) for node in nodes}) == 1


async def test_a_killed_leader_is_followed_by_the_next_at_once(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    await town.start("founder")
    for name in "ab":
        await town.start(name, via="founder")
    worker = await town.start("worker", via="founder", roles=WORKER)
    await until(lambda: all(len(node.swarm.leaders()) == 3 for node in town.nodes.values()), 30)
    first, second, _ = worker.swarm.leaders()
    await town.kill(next(name for name, node in town.nodes.items() if node.peer == first))
    took = await until(lambda: all(node.leader == second for node in town.nodes.values()), 5)
    assert took < 2.5


async def test_a_killed_worker_is_suspect_soon_and_dead_a_while_later(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    founder = await town.start("founder")
    worker = await town.start("worker", via="founder", roles=WORKER)
    await until(lambda: founder.sees(worker) == "alive", 5)
    await town.kill("worker")
    assert await until(lambda: founder.sees(worker) == "suspect", 3) < 3
    assert await until(lambda: founder.sees(worker) == "dead", 25) > 15
    assert founder.swarm.view.workers("eu")[0].peer == founder.peer


@pytest.mark.parametrize("detailed", [200, 0], ids=["small-region", "large-region"])
async def test_a_gateway_that_cannot_see_a_worker_goes_by_the_leader_s_word(
    nursery: Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, detailed: int
) -> None:
    monkeypatch.setattr("topics.view.DETAILED_MEMBERS", detailed)
    town = Town(nursery)
    await town.start("founder")
    worker = await town.start("worker", via="founder", roles=WORKER)
    gateway = await town.start("gateway", via="founder", roles=("gateway",))
    await until(lambda: gateway.sees(worker) == "alive", 5)
    town.world.cut(gateway.peer, worker.peer)
    await until(lambda: gateway.sees(worker) == "suspect", 5)
    await until(lambda: gateway.sees(worker) == "alive", 15)
    for _ in range(120):
        await trio.sleep(1)
        assert gateway.sees(worker) == "alive"
    await town.kill("worker")
    await until(lambda: gateway.sees(worker) == "suspect", 12)
    await until(lambda: gateway.sees(worker) == "dead", 25)


async def test_who_leaves_is_gone_at_once_everywhere(nursery: Nursery, autojump_clock: MockClock) -> None:
    town = Town(nursery)
    founder = await town.start("founder")
    leaving = await town.start("leaving", via="founder")
    worker = await town.start("worker", via="founder", roles=WORKER)
    await until(lambda: worker.sees(leaving) == "alive", 10)
    await leaving.swarm.set_state("leaving")
    await until(lambda: founder.sees(leaving) == worker.sees(leaving) == "dead", 0.5)
    await town.kill("leaving")
    await trio.sleep(5)
    assert founder.sees(leaving) == worker.sees(leaving) == "dead"


async def test_a_draining_leader_hands_over_and_stays_a_member(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    await town.start("founder")
    await town.start("other", via="founder")
    nodes = list(town.nodes.values())
    await until(lambda: all(len(node.swarm.leaders()) == 2 for node in nodes), 30)
    first = next(node for node in nodes if node.peer == nodes[0].leader)
    second = next(node for node in nodes if node is not first)
    await first.swarm.set_state("draining")
    await until(lambda: first.leader == second.leader == second.peer, 1)
    assert second.sees(first) == "alive"


async def test_nodes_that_know_only_the_founder_find_each_other(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    await town.start("founder")
    one = await town.start("one", via="founder", roles=WORKER)
    other = await town.start("other", via="founder", roles=WORKER)
    await until(
        lambda: one.peer in other.network.peers() and one.sees(other) == other.sees(one) == "alive", 5
    )


async def test_a_founder_gone_a_newcomer_finds_a_worker_by_a_lookup(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    await town.start("founder")
    await town.start("one", via="founder")
    two = await town.start(
        "two", via="founder", roles=WORKER, serves=(ServedModel("big", "2", "b" * 64, 512),)
    )
    await trio.sleep(15)
    await town.kill("founder")
    await trio.sleep(1)
    newcomer = await town.start("newcomer", via="one", roles=("gateway",))
    await until(lambda: newcomer.counts.lookups.count(("models", 1)) == 2, 5)
    assert newcomer.sees(two) == "alive"
    found = await newcomer.swarm.find_workers("big", "2", "eu")
    assert [address.peer for address in found] == [two.peer]
    assert await newcomer.swarm.find_workers("absent", "1", "eu") == []


async def test_a_partition_heals(nursery: Nursery, autojump_clock: MockClock) -> None:
    town = Town(nursery)
    await town.start("founder")
    for name in "abc":
        await town.start(name, via="founder")
    nodes = list(town.nodes.values())
    await until(lambda: all(len(node.swarm.leaders()) == 4 for node in nodes), 30)
    agreed = nodes[0].leader
    sides = nodes[:2], nodes[2:]
    town.cut(sides[0])
    await until(lambda: all(len(node.swarm.leaders()) == 2 for node in nodes), 10)
    assert sides[0][0].leader == sides[0][1].leader != sides[1][0].leader == sides[1][1].leader
    await trio.sleep(60)
    town.heal()
    await until(lambda: all(len(node.swarm.leaders()) == 4 for node in nodes), 60)
    assert {node.leader for node in nodes} == {agreed}


async def test_a_restarted_node_is_alive_again_with_its_new_incarnation(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    founder = await town.start("founder")
    await town.start("worker", via="founder", roles=WORKER)
    await trio.sleep(5)
    await town.kill("worker")
    await trio.sleep(3)
    worker = await town.start("worker", via="founder", roles=WORKER)
    await until(lambda: founder.sees(worker) == "alive", 2)
    known = founder.swarm.view.get(worker.peer)
    assert known is not None
    assert known.incarnation == 2


async def test_a_changed_load_is_known_to_the_leaders_within_half_a_second(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    founder = await town.start("founder")
    worker = await town.start("worker", via="founder", roles=WORKER)
    await until(lambda: founder.load_of(worker) == 0, 5)
    await trio.sleep(3)
    worker.load = 3
    assert await until(lambda: founder.load_of(worker) == 3, 2) <= 0.6


async def test_regions_learn_of_each_other_whoever_met_first(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    founder = await town.start("founder")
    worker = await town.start("worker", via="founder", roles=WORKER)
    far = await town.start("far", via="worker", region="us")
    assert far.leader == far.peer
    await until(lambda: founder.swarm.leaders("us") == worker.swarm.leaders("us") == [far.peer], 40)
    await until(lambda: far.swarm.leaders("eu") == [founder.peer] and far.sees(worker) == "alive", 40)
    await trio.sleep(120)
    assert founder.sees(far) == far.sees(founder) == worker.sees(far) == "alive"


async def test_a_leader_reported_unreachable_is_passed_over_until_it_is_heard(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    founder = await town.start("founder")
    worker = await town.start("worker", via="founder", roles=WORKER)
    worker.swarm.report_unreachable(founder.peer)
    assert worker.leader is None
    await until(lambda: worker.leader == founder.peer, 2)


@pytest.mark.parametrize("detailed", [200, 0], ids=["small-region", "large-region"])
async def test_nobody_is_suspected_in_five_quiet_minutes_and_nobody_drops_a_thing(
    nursery: Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, detailed: int
) -> None:
    monkeypatch.setattr("topics.view.DETAILED_MEMBERS", detailed)
    town = Town(nursery)
    await town.start("founder")
    await town.start("other", via="founder")
    await town.start("worker", via="founder", roles=WORKER)
    await town.start("gateway", via="founder", roles=("gateway",))
    nodes = list(town.nodes.values())
    await trio.sleep(20)
    elections = [node.counts.elections for node in nodes]
    for _ in range(300):
        await trio.sleep(1)
        assert {one.sees(other) for one in nodes for other in nodes} == {"alive"}
    assert [node.counts.elections for node in nodes] == elections
    assert all(not node.counts.dropped for node in nodes)


async def test_what_does_not_hold_is_dropped_counted_and_held_against_its_source(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    founder = await town.start("founder")
    eve = await town.start("eve", via="founder", roles=("worker",))
    mesh = names.presence("eu")
    member, stranger = person("member"), person("stranger", roles=("worker",))
    good = member.says(here(), now=town.now())
    envelope = good.envelope
    forged = msgspec.structs.replace(good, envelope=msgspec.structs.replace(envelope, seq=9))
    before = {known.peer for known in founder.swarm.view.members()}
    bad = {
        "forged": forged,
        "expired": member.says(here(), now=town.now() - 1000),
        "region": person("far", regions=("us",)).says(here(), now=town.now()),
        "roles": stranger.says(here(), now=town.now()),
        "oversized": member.says(here(version="x" * (MAX_PAYLOAD_BYTES + 1)), now=town.now()),
        "uncertified": msgspec.structs.replace(good, credential=b"none"),
    }
    for announcement in bad.values():
        await eve.network.publish(mesh.gossip_id(SWARM), encode(announcement))
    await eve.network.publish(mesh.gossip_id(SWARM), b"noise")
    await trio.sleep(0.1)
    assert founder.counts.dropped == dict.fromkeys([*bad, "malformed"], 1)
    assert founder.network.rejected[eve.peer] == 7
    assert {known.peer for known in founder.swarm.view.members()} == before

    for _ in range(2):
        await eve.network.publish(mesh.gossip_id(SWARM), encode(good))
        await trio.sleep(0.1)
    assert founder.counts.dropped["replayed"] == 1
    assert {known.peer for known in founder.swarm.view.members()} == before | {member.peer}


async def test_nobody_introduces_another(nursery: Nursery, autojump_clock: MockClock) -> None:
    town = Town(nursery)
    founder = await town.start("founder")
    eve = await town.start("eve", via="founder", roles=("worker",))
    ghost = person("ghost")
    introduction = ghost.says(here(), now=town.now())
    with pytest.raises(TetherError) as caught:
        await eve.rpc.ask(founder.peer, PRESENCE, introduction, timeout_s=1)
    assert caught.value.code is ANNOUNCE_INVALID
    with pytest.raises(TetherError):
        await eve.rpc.ask(founder.peer, HEALTH, introduction, timeout_s=1)
    assert founder.counts.dropped == {"forged": 2}
    assert founder.swarm.view.get(ghost.peer) is None


async def test_roles_and_regions_outside_the_certificate_are_refused_at_the_start(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    with pytest.raises(TetherError) as caught:
        await town.start("node", roles=("orchestrator",), certified=("worker",))
    assert caught.value.code is ROLE_FORBIDDEN


async def test_the_status_is_for_people(nursery: Nursery, autojump_clock: MockClock) -> None:
    town = Town(nursery)
    founder = await town.start("founder")
    worker = await town.start("worker", via="founder", roles=WORKER)
    await trio.sleep(3)
    status = worker.swarm.status()
    assert (status.region, status.orchestrator, status.peers, status.members) == ("eu", founder.peer, 1, 2)
    assert status.topics == ("tether/presence/eu", f"tether/models/{TINY.name}/{TINY.version}/eu")
    assert worker.swarm.addresses_of(founder.peer) == founder.network.addresses()
    assert worker.swarm.addresses_of(person("nobody").peer) == ()
    assert founder.swarm.is_candidate()
    assert not worker.swarm.is_candidate()


async def test_a_node_that_moved_is_known_at_its_new_address_within_moments(
    nursery: Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = Town(nursery)
    founder = await town.start("founder")
    other = await town.start("other", via="founder")
    worker = await town.start("worker", via="founder", roles=WORKER)
    await trio.sleep(15)
    for node, new in ((worker, "/ip4/11.0.0.77/tcp/7576"), (other, "/ip6/2a00::7/tcp/7576")):
        monkeypatch.setattr(node.network, "addresses", lambda new=new: (new,))
        node.swarm.moved()
        await until(lambda node=node, new=new: founder.swarm.addresses_of(node.peer) == (new,), 3)  # type: ignore[misc]


async def test_a_member_that_never_stops_introducing_itself_is_refused_and_others_are_not(
    nursery: Nursery, autojump_clock: MockClock
) -> None:
    town = Town(nursery)
    founder = await town.start("founder")
    pest = await town.start("pest", via="founder", roles=WORKER)
    other = await town.start("other", via="founder", roles=WORKER)
    await until(lambda: founder.sees(pest) == "alive", 5)
    refused = 0
    for _ in range(40):
        try:
            await pest.rpc.ask(founder.peer, PRESENCE, pest.swarm._voice.presence(), timeout_s=5)
        except TetherError as error:
            assert error.code is CAPACITY
            refused += 1
    assert refused >= 20
    await other.rpc.ask(founder.peer, PRESENCE, other.swarm._voice.presence(), timeout_s=5)
    assert founder.sees(pest) == "alive"
