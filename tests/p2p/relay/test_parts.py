"""What decides in a relay, without any network: messages, slots, the budget, and which relay to use."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2p.errors import FRAME_INVALID, TetherError
from p2p.host.relay.budget import BURST_S, Bandwidth
from p2p.host.relay.choice import LONGEST_BACKOFF_S, Candidate, choose
from p2p.host.relay.slots import Opened, Refused, Slots
from p2p.host.relay.wire import (
    CONNECT,
    MAX_BYTES,
    RESERVE,
    STATUS,
    STOP_CONNECT,
    STOP_STATUS,
    Hop,
    Limit,
    Status,
    Stop,
    read_hop,
    read_stop,
    write_hop,
    write_stop,
)
from p2p.host.settings import RelayTerms
from p2p.identity import PeerId
from tests.swarms import make_swarm

PEERS = [key.node_id for key in make_swarm(4).keys]
peers = st.none() | st.sampled_from(PEERS)
limits = st.builds(Limit, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))

# ── Messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    st.builds(
        Hop,
        st.sampled_from([RESERVE, CONNECT, STATUS]),
        st.sampled_from(list(Status)),
        peers,
        st.integers(1, 2**64 - 1),
        st.just(("/ip4/192.0.2.1/tcp/4001",)),
        limits,
        st.integers(0, 100).map(lambda percent: percent / 100),
    )
)
def test_what_a_relay_says_is_read_as_it_was_written(hop: Hop) -> None:
    assert read_hop(write_hop(hop)) == hop


@given(
    st.builds(
        Stop, st.sampled_from([STOP_CONNECT, STOP_STATUS]), st.sampled_from(list(Status)), peers, limits
    )
)
def test_what_a_target_says_is_read_as_it_was_written(stop: Stop) -> None:
    assert read_stop(write_stop(stop)) == stop


@given(st.binary(max_size=MAX_BYTES))
def test_any_bytes_are_a_message_or_the_peers_fault(data: bytes) -> None:
    for read in (read_hop, read_stop):
        try:
            read(data)
        except TetherError as error:
            assert error.code.name in (FRAME_INVALID.name, "FIELD_INVALID")


def test_messages_are_the_specifications_own() -> None:
    """By hand from circuit-v2: hop has type 1, peer 2, limit 4 {duration 1, data 2}, status 5; stop has status 4."""
    assert write_hop(Hop(RESERVE)) == bytes.fromhex("0800")
    assert write_hop(Hop(STATUS, Status.NO_RESERVATION)) == bytes.fromhex("080228cc01")
    assert write_stop(Stop(STOP_STATUS, Status.OK)) == bytes.fromhex("08012064")
    assert write_hop(Hop(STATUS, Status.OK, limit=Limit(60, 7))) == bytes.fromhex("080222 04083c1007 2864")


def test_a_status_that_nobody_knows_is_no_consent() -> None:
    assert read_hop(bytes.fromhex("080228e707")).status is Status.UNUSED


# ── Slots ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_peer_has_one_slot_however_often_it_asks() -> None:
    slots = Slots(RelayTerms(reservations=2))
    for _ in range(100):
        slots.reserve(PEERS[0], 0.0)
    slots.reserve(PEERS[1], 0.0)
    with pytest.raises(Refused) as refusal:
        slots.reserve(PEERS[2], 0.0)
    assert refusal.value.status is Status.RESERVATION_REFUSED
    slots.reserve(PEERS[0], 1.0)
    slots.left(PEERS[1])
    slots.reserve(PEERS[2], 1.0)
    assert slots.reservations == 2 and not slots.serves(PEERS[1])


def test_a_reservation_that_ran_out_opens_nothing_and_makes_room() -> None:
    terms = RelayTerms(reservations=1)
    slots = Slots(terms)
    slots.reserve(PEERS[0], 0.0)
    with pytest.raises(Refused) as refusal:
        slots.open(PEERS[1], PEERS[0], terms.reservation_s)
    assert refusal.value.status is Status.NO_RESERVATION
    slots.reserve(PEERS[1], terms.reservation_s)


class Circuits(RuleBasedStateMachine):
    """Any sequence of what peers may do: the limits hold, and closing one circuit ends no other."""

    def __init__(self) -> None:
        super().__init__()
        self.terms = RelayTerms(reservations=2, circuits=4, circuits_a_peer=3)
        self.slots = Slots(self.terms)
        self.open: list[Opened] = []

    @rule(peer=st.sampled_from(PEERS))
    def reserve(self, peer: PeerId) -> None:
        try:
            self.slots.reserve(peer, 0.0)
        except Refused:
            assert self.slots.reservations == self.terms.reservations

    @rule(peer=st.sampled_from(PEERS))
    def leave(self, peer: PeerId) -> None:
        self.slots.left(peer)

    @rule(ends=st.permutations(PEERS))
    def connect(self, ends: list[PeerId]) -> None:
        with suppress(Refused):
            self.open.append(self.slots.open(ends[0], ends[1], 0.0))

    @precondition(lambda self: bool(self.open))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        opened = data.draw(st.sampled_from(self.open))
        self.open.remove(opened)
        self.slots.close(opened)

    @invariant()
    def limits_hold(self) -> None:
        assert self.slots.reservations <= self.terms.reservations
        assert self.slots.circuits == len(self.open) <= self.terms.circuits
        for peer in PEERS:
            ends = [one for one in self.open if peer in (one.source, one.target)]
            assert len(ends) <= self.terms.circuits_a_peer
            assert not ends or self.slots.serves(peer)


TestCircuits = Circuits.TestCase


# ── The budget ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(st.integers(1, 65_536), st.floats(0, 0.1)), max_size=200))
def test_who_waits_as_told_never_passes_on_more_than_the_rate_and_a_burst(
    reads: list[tuple[int, float]],
) -> None:
    rate, now, passed = 100_000.0, 0.0, 0
    bandwidth = Bandwidth(rate, now)
    for size, pause_s in reads:
        now += pause_s
        now += bandwidth.take(size, now)
        passed += size
        assert passed <= rate * (now + BURST_S) + 1
        assert 0 <= bandwidth.load(now) <= 1


def test_a_quiet_relay_keeps_nobody_waiting() -> None:
    bandwidth = Bandwidth(1000.0, 0.0)
    assert bandwidth.take(500, 0.0) == 0.0
    assert bandwidth.take(100, 0.0) == pytest.approx(0.1)
    assert bandwidth.take(400, 10.0) == 0.0


# ── Which relay ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_near_relays_go_before_far_ones_and_idle_ones_before_busy_ones() -> None:
    a, b, c, d = PEERS
    known = {
        a: Candidate(rtt_s=0.1),
        b: Candidate(rtt_s=0.05),
        c: Candidate(rtt_s=0.04, load=1.0),
        d: Candidate(),
    }
    assert choose(known.items(), (), 4, 0.0) == [b, a, c, d]
    assert choose(known.items(), (a,), 1, 0.0) == [b]
    assert choose(known.items(), (d,), 2, 0.0) == [b, a]


def test_what_is_held_is_not_changed_for_a_little_less() -> None:
    a, b = PEERS[:2]
    assert choose([(a, Candidate(rtt_s=0.1)), (b, Candidate(rtt_s=0.08))], (a,), 1, 0.0) == [a]


def test_a_relay_that_fails_is_left_alone_for_longer_each_time() -> None:
    candidate, pauses = Candidate(), []
    for _ in range(40):
        candidate.failed(0.0, 1.0)
        pauses.append(candidate.retry_s)
        assert choose([(PEERS[0], candidate)], (), 1, 0.0) == []
    assert pauses == sorted(pauses) and pauses[-1] == LONGEST_BACKOFF_S
    candidate.answered(0.1, 0.0)
    assert choose([(PEERS[0], candidate)], (), 1, 0.0) == [PEERS[0]]
