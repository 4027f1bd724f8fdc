"""Provider records and addresses over real hosts, also when some of them are dead."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

import pytest
import trio

from p2p.errors import FIELD_INVALID, UNREACHABLE, TetherError
from p2p.host.kad.distance import K, seat
from p2p.host.kad.messages import Note
from p2p.host.paths import Reachability
from p2p.identity import NodeKey, PeerId
from p2p.transport import PeerAddress
from tests.p2p.hosts import QUICK, address, open_node, open_nodes, until
from tests.swarms import make_swarm

KEY = hashlib.sha256(b"presence").digest()


async def test_providers_are_found_by_a_node_that_knows_only_the_bootstrap() -> None:
    swarm = make_swarm(5)
    async with open_nodes(swarm, 5) as hosts:
        bootstrap, *others = hosts
        for host in others:
            await host.connect(address(bootstrap))
        await until(lambda: len(bootstrap.peers()) == 4)
        for host in others[:2]:
            await host.provide(KEY)
        found = await others[3].find_providers(KEY)
        assert {one.peer: set(one.addresses) for one in found} == {
            host.peer_id: set(host.addresses()) for host in others[:2]
        }
        await others[3].connect(PeerAddress(others[0].peer_id))
        assert others[0].peer_id in others[3].peers()


async def test_a_node_never_finds_itself_and_a_limit_is_kept() -> None:
    swarm = make_swarm(4)
    async with open_nodes(swarm, 4) as hosts:
        for host in hosts[1:]:
            await host.connect(address(hosts[0]))
        for host in hosts:
            await host.provide(KEY)
        found = await hosts[1].find_providers(KEY)
        assert {one.peer for one in found} == {host.peer_id for host in hosts} - {hosts[1].peer_id}
        assert len(await hosts[1].find_providers(KEY, limit=2)) == 2


async def test_what_became_known_elsewhere_is_found_although_this_node_holds_records_too() -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 3) as (alice, bob, carol):
        await bob.connect(address(alice))
        await bob.provide(KEY)
        await carol.connect(address(bob))
        await carol.provide(KEY)
        found = await alice.find_providers(KEY)
        assert {one.peer for one in found} == {bob.peer_id, carol.peer_id}


async def test_a_record_outlives_its_keepers_while_one_of_them_lives() -> None:
    swarm = make_swarm(6)
    async with open_nodes(swarm, 4) as (first, second, provider, asker):
        async with open_node(swarm, 4) as dying, open_node(swarm, 5) as dead:
            for host in (second, dying, dead, provider):
                await host.connect(address(first))
            await provider.provide(KEY)
            for host in (first, second, dying, dead):
                await asker.connect(address(host))
            await provider.disconnect(asker.peer_id)
        with trio.fail_after(10):
            found = await asker.find_providers(KEY)
        assert [one.peer for one in found] == [provider.peer_id]


async def test_a_provider_that_was_killed_is_still_found_through_others_and_refuses_at_once() -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 2) as (alice, bob):
        await bob.connect(address(alice))
        async with open_node(swarm, 2) as carol:
            await carol.connect(address(alice))
            await carol.provide(KEY)
            gone = address(carol)
        assert await bob.find_providers(KEY) == (gone,)
        with pytest.raises(TetherError) as error:
            await bob.connect(gone)
        assert "refused" in error.value.detail


async def test_a_peer_that_hangs_costs_a_lookup_its_time_limit_and_no_more() -> None:
    swarm = make_swarm(4)
    async with open_nodes(swarm, 3) as (alice, bob, carol):
        for host in (bob, carol):
            await host.connect(address(alice))
        await carol.provide(KEY)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        silent = PeerAddress(swarm.keys[3].node_id, (f"/ip4/127.0.0.1/tcp/{port}",))
        with pytest.raises(TetherError) as error:
            await bob.connect(silent)
        assert error.value.code is UNREACHABLE
        bob._dht._table.seen(silent.peer, trio.current_time())
        with trio.fail_after(10):
            assert [one.peer for one in await bob.find_providers(KEY)] == [carol.peer_id]
        assert silent.peer not in set(bob._dht._table)
        await listeners[0].aclose()


async def test_a_provide_takes_longer_than_a_find_may() -> None:
    swarm = make_swarm(2)
    hasty = replace(QUICK, lookup_s=0.0)
    async with open_node(swarm, 0) as keeper, open_node(swarm, 1, settings=hasty) as provider:
        await provider.connect(address(keeper))
        await provider.provide(KEY)
        assert [one.peer for one in await keeper.find_providers(KEY)] == [provider.peer_id]


async def test_find_peer_asks_the_network() -> None:
    swarm = make_swarm(4)
    async with open_nodes(swarm, 4) as (alice, bob, carol, nobody):
        for host in (bob, carol):
            await host.connect(address(alice))
        await until(lambda: bool(alice._switch.book.of(carol.peer_id)))
        assert await bob.find_peer(carol.peer_id) == address(carol)
        assert await bob.find_peer(nobody.peer_id) is None
        assert await bob.find_peer(alice.peer_id) == address(alice)


async def test_who_is_connected_is_asked_although_all_who_seem_nearer_are_gone() -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 3) as (alice, bob, carol):
        for host in (bob, carol):
            await host.connect(address(alice))
        await until(lambda: bool(alice._switch.book.of(carol.peer_id)))
        wanted = seat(carol.peer_id)
        strangers = [NodeKey.generate().node_id for _ in range(200)]
        for gone in sorted(strangers, key=lambda peer: seat(peer) ^ wanted)[:K]:
            bob._dht._table._buckets.setdefault(0, {})[gone] = trio.current_time()
        for known in (alice, carol):
            bob._dht._table.lost(known.peer_id)
        await bob.disconnect(carol.peer_id)
        await until(lambda: carol.peer_id not in bob.peers())
        assert await bob.find_peer(carol.peer_id) == address(carol)


async def test_newcomers_in_a_crowd_are_served_by_one_look_for_ones_own_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2p.host.kad.dht.REST_S", math.inf)
    swarm = make_swarm(5)
    async with open_nodes(swarm, 5) as (alice, *crowd):
        looks: list[Note] = []
        look_up = alice._dht.lookup

        async def looking(question: Note, *others: Any, **more: Any) -> list[PeerId]:
            looks.append(question)
            return await look_up(question, *others, **more)

        monkeypatch.setattr(alice._dht, "lookup", looking)
        for host in crowd:
            await host.connect(address(alice))
            await until(lambda peer=host.peer_id: peer in alice._dht._table)
        await until(lambda: all(len(host._dht._table) == 4 for host in crowd))
        assert len(looks) == 1


async def test_a_node_alone_cannot_provide_and_finds_nobody() -> None:
    swarm = make_swarm(1)
    async with open_node(swarm, 0) as alice:
        with pytest.raises(TetherError) as error:
            await alice.provide(KEY)
        assert error.value.code is UNREACHABLE
        assert await alice.find_providers(KEY) == ()


async def test_a_key_has_32_bytes() -> None:
    swarm = make_swarm(1)
    async with open_node(swarm, 0) as alice:
        with pytest.raises(TetherError) as error:
            await alice.provide(b"short")
        assert error.value.code is FIELD_INVALID


async def test_two_swarms_in_one_process_keep_their_records_apart() -> None:
    ours, theirs = make_swarm(2), make_swarm(2, name="another")
    async with open_nodes(ours, 2) as (alice, bob), open_nodes(theirs, 2) as (xavier, yvonne):
        await alice.connect(address(bob))
        await xavier.connect(address(yvonne))
        await alice.provide(KEY)
        assert [one.peer for one in await bob.find_providers(KEY)] == [alice.peer_id]
        assert await yvonne.find_providers(KEY) == ()


async def test_a_node_that_nobody_can_dial_asks_and_is_asked_nothing() -> None:
    swarm = make_swarm(3)
    async with open_nodes(swarm, 3) as (alice, bob, carol):
        for host in (bob, carol):
            await host.connect(address(alice))
        await until(lambda: bob.peer_id in alice._dht._table)
        bob.reach.found(Reachability.PRIVATE)
        await until(lambda: bob.peer_id not in alice._dht._table)
        await carol.provide(KEY)
        assert [one.peer for one in await bob.find_providers(KEY)] == [carol.peer_id]
        assert bob.peer_id not in alice._dht._table
        await bob.provide(KEY)
        assert {one.peer for one in await alice.find_providers(KEY)} == {bob.peer_id, carol.peer_id}
        bob.reach.found(Reachability.PUBLIC)
        await until(lambda: bob.peer_id in alice._dht._table)


async def test_a_peer_that_is_gone_without_a_word_leaves_the_table_and_one_that_said_goodbye_is_not_doubted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2p.host.kad.dht.CHECK_S", 0.3)
    swarm = make_swarm(3)
    async with open_nodes(swarm, 3) as (alice, bob, carol):
        for host in (bob, carol):
            await host.connect(address(alice))
            await until(lambda peer=host.peer_id: peer in alice._dht._table)
        doubted: list[PeerId] = []
        alice._switch.broke.append(doubted.append)
        await carol.disconnect(alice.peer_id)
        await until(lambda: carol.peer_id not in alice.peers())
        bob._switch._closing = True
        gone = bob._switch._standing.of(alice.peer_id)
        assert gone is not None
        await gone.muxer.abandon()
        await until(lambda: bob.peer_id not in alice._dht._table)
        assert set(doubted) == {bob.peer_id}


async def test_a_peer_whose_connection_broke_and_that_lives_stays_in_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2p.host.kad.dht.CHECK_S", 0.3)
    swarm = make_swarm(2)
    async with open_nodes(swarm, 2) as (alice, bob):
        await bob.connect(address(alice))
        await until(lambda: bob.peer_id in alice._dht._table and bool(alice._switch.book.of(bob.peer_id)))
        seen: list[bool] = []
        alice.watch(lambda _, up: seen.append(up))
        broken = bob._switch._standing.of(alice.peer_id)
        assert broken is not None
        await broken.muxer.abandon()
        await until(lambda: False in seen and bob.peer_id in alice.peers())
        assert bob.peer_id in alice._dht._table
