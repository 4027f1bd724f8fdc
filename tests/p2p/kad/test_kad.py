"""Kademlia without a network: the table, lookups over simulated swarms, records, messages."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import FRAME_INVALID, TetherError
from p2p.host.kad.distance import K, peer_of, position, raw_id, seat
from p2p.host.kad.lookup import ALPHA, Lookup
from p2p.host.kad.messages import FIND_NODE, GET_PROVIDERS, Note, read, write
from p2p.host.kad.records import MAX_KEYS_OF_PEER, MAX_PROVIDERS, TTL_S, Records
from p2p.host.kad.table import STALE_S, Table
from p2p.identity import PeerId, node_id_of
from p2p.transport import PeerAddress

HERE = ("/ip4/192.0.2.1/tcp/1",)


def peers(count: int, *, first: int = 0) -> list[PeerId]:
    return [node_id_of(hashlib.sha256(b"%d" % number).digest()) for number in range(first, first + count)]


def nearest(target: int, among: Iterable[PeerId]) -> list[PeerId]:
    return sorted(among, key=lambda peer: seat(peer) ^ target)


# ── Table ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_table_names_the_nearest_it_knows() -> None:
    own, *others = peers(60)
    table = Table(own)
    for peer in others:
        table.seen(peer, 0.0)
    target = position(b"key")
    assert table.closest(target, 5) == nearest(target, table)[:5]
    assert own not in set(table)


def test_a_full_bucket_keeps_its_old_friends_until_they_are_stale() -> None:
    own, *others = peers(400)
    table = Table(own)
    for peer in others:
        table.seen(peer, 0.0)
    full = set(table)
    assert len(full) < len(others)
    newcomer = next(peer for peer in others if peer not in full)
    table.seen(newcomer, STALE_S - 1)
    assert set(table) == full
    table.seen(newcomer, STALE_S)
    assert newcomer in set(table)
    assert len(table) == len(full)


def test_who_does_not_answer_is_out_at_once() -> None:
    own, other = peers(2)
    table = Table(own)
    table.seen(other, 0.0)
    table.lost(other)
    table.lost(other)
    assert len(table) == 0


# ── Lookup ───────────────────────────────────────────────────────────────────────────────────────────────────────


def look_up(seed: int, count: int, dead_share: float) -> tuple[list[PeerId], list[PeerId], int]:
    """Run a lookup over a made-up swarm. Returns what it found, what it should have, and how many it asked."""
    draw = random.Random(seed)
    own, *others = peers(count, first=seed * 10_000)
    dead = {peer for peer in others if draw.random() < dead_share}
    tables = {peer: Table(peer) for peer in others}
    for table in tables.values():
        for peer in draw.sample(others, len(others)):
            table.seen(peer, 0.0)
    target = position(draw.randbytes(32))
    lookup = Lookup(target, draw.sample(others, 8), own=own)
    asked = waiting = lookup.next()
    total = len(asked)
    while waiting:
        assert len(waiting) <= ALPHA
        peer = waiting.pop(draw.randrange(len(waiting)))
        if peer in dead:
            lookup.failed(peer)
        else:
            lookup.answered(peer, tables[peer].closest(target))
        more = lookup.next()
        total += len(more)
        waiting += more
    return lookup.found(), nearest(target, set(others) - dead)[:K], total


@pytest.mark.parametrize("seed", range(5))
def test_a_lookup_finds_the_nearest_that_live_among_dead_ones(seed: int) -> None:
    """Answers name 20 peers, dead ones among them, so the farthest few of the k nearest may stay unnamed."""
    found, expected, total = look_up(seed, 200, dead_share=0.3)
    assert found[:12] == expected[:12]
    assert len(set(found) & set(expected)) >= K - 4
    assert total < 80


@pytest.mark.parametrize("seed", range(5))
def test_a_lookup_among_the_living_finds_the_k_nearest(seed: int) -> None:
    found, expected, total = look_up(seed, 200, dead_share=0.0)
    assert found == expected
    assert total < 60


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_lookup_in_a_small_swarm_asks_everybody_once(count: int) -> None:
    own, *others = peers(count)
    lookup = Lookup(0, others[:1], own=own)
    asked: list[PeerId] = []
    waiting = lookup.next()
    while waiting:
        asked.append(waiting.pop())
        lookup.answered(asked[-1], [own, *others])
        waiting += lookup.next()
    assert sorted(asked) == sorted(others)
    assert set(lookup.found()) == set(others)


def test_of_the_k_nearest_those_at_hand_are_asked_first() -> None:
    own, *others = peers(60)
    target = position(b"key")
    ordered = nearest(target, others)
    at_hand = set(ordered[K - 3 : K + 3])
    asked = Lookup(target, others, own=own, at_hand=at_hand.__contains__).next()
    assert asked == [*ordered[K - 3 : K], *ordered[: ALPHA - 3]]


def test_as_many_are_asked_at_a_time_as_the_lookup_is_wide() -> None:
    own, *others = peers(30)
    lookup = Lookup(position(b"key"), others, own=own)
    [first] = lookup.next(1)
    assert first == nearest(position(b"key"), others)[0]
    assert lookup.next(1) == [] and not lookup.over
    assert len(lookup.next()) == ALPHA - 1
    lookup.answered(first, [])
    assert lookup.next(1) == []


def test_nobody_is_dialled_while_somebody_at_hand_may_be_about_to_answer() -> None:
    own, *others = peers(30)
    ordered = nearest(position(b"key"), others)
    first, second = ordered[2], ordered[5]
    lookup = Lookup(position(b"key"), others, own=own, at_hand={first, second}.__contains__)
    assert set(lookup.next(patient=True)) == {first, second}
    assert lookup.next(patient=True) == [] and not lookup.over
    lookup.answered(first, [])
    assert lookup.next(patient=True) == [] and not lookup.over
    lookup.failed(second)
    dialled = lookup.next(patient=True)
    assert len(dialled) == ALPHA
    waiting = Lookup(position(b"key"), others, own=own, at_hand={first}.__contains__)
    assert waiting.next(patient=True) == [first]
    assert len(waiting.next()) == ALPHA - 1
    nobody = Lookup(position(b"key"), [], own=own)
    assert nobody.next() == [] and nobody.over


# ── Records ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_record_lasts_until_it_expires_and_a_repetition_renews_it() -> None:
    (peer,) = peers(1)
    records = Records()
    assert records.put(b"k", PeerAddress(peer, HERE), 0.0)
    assert records.put(b"k", PeerAddress(peer, ("/ip4/192.0.2.9/tcp/1",)), 100.0)
    assert records.get(b"k", 100.0 + TTL_S - 1, 10) == [PeerAddress(peer, ("/ip4/192.0.2.9/tcp/1",))]
    assert records.get(b"k", 100.0 + TTL_S, 10) == []
    assert len(records) == 0


def test_the_freshest_come_first_and_the_oldest_go() -> None:
    records = Records()
    crowd = peers(MAX_PROVIDERS + 10)
    for now, peer in enumerate(crowd):
        records.put(b"k", PeerAddress(peer, HERE), float(now))
    told = [provider.peer for provider in records.get(b"k", 600.0, 10_000)]
    assert told == crowd[: -MAX_PROVIDERS - 1 : -1]


def test_one_peer_cannot_fill_the_store_and_gets_its_room_back() -> None:
    (peer,) = peers(1)
    records = Records()
    kept = [records.put(b"%d" % key, PeerAddress(peer, HERE), 0.0) for key in range(MAX_KEYS_OF_PEER + 5)]
    assert kept == [True] * MAX_KEYS_OF_PEER + [False] * 5
    records.sweep(TTL_S)
    assert len(records) == 0
    assert records.put(b"again", PeerAddress(peer, HERE), TTL_S)


# ── Messages ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_passes_the_wire() -> None:
    first, second = peers(2)
    note = Note(GET_PROVIDERS, b"k" * 32, (PeerAddress(first, HERE),), (PeerAddress(second, HERE * 1),))
    assert read(write(note)) == note
    assert peer_of(raw_id(first)) == first


def test_peers_without_an_address_or_a_key_are_left_out() -> None:
    (peer,) = peers(1)
    assert read(write(Note(FIND_NODE, b"", (PeerAddress(peer),)))).nearer == ()
    assert read(write(Note(FIND_NODE, b"", (PeerAddress(PeerId("2"), HERE),)))).nearer == ()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_peers_fault(data: bytes) -> None:
    try:
        note = read(data)
    except TetherError as error:
        assert error.code is FRAME_INVALID
    else:
        assert len(note.nearer) <= 128
