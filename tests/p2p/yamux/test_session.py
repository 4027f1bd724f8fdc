"""yamux's rules in tables, and two sessions that talk to each other whatever they draw."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.host.errors import PeerFault
from p2p.host.yamux.budget import CONNECTION_BYTES, GROWTH_BYTES, MAX_STREAMS, MAX_WINDOW, Budget
from p2p.host.yamux.flow import Flow
from p2p.host.yamux.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    HEADER_BYTES,
    INITIAL_WINDOW,
    MAX_LENGTH,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Goodbye,
    header,
)
from p2p.host.yamux.session import Session, TooManyStreams

Header = tuple[int, int, int, int]


def listener(growth: int = 0) -> Session:
    return Session(initiator=False, budget=Budget(growth))


def told(session: Session, *frames: bytes) -> Session:
    session.receive(memoryview(b"".join(frames)))
    return session


def said(session: Session) -> bytes:
    room = memoryview(bytearray(65_519))
    data = b""
    while count := session.outgoing(room):
        data += bytes(room[:count])
    return data


def headers(data: bytes) -> list[Header]:
    found, at = [], 0
    while at < len(data):
        _, kind, flags, stream, length = HEADER.unpack_from(data, at)
        found.append((kind, flags, stream, length))
        at += HEADER_BYTES + (length if kind == DATA else 0)
    return found


def opened(stream: int = 1) -> bytes:
    return header(WINDOW_UPDATE, SYN, stream, 0)


def data_frame(flags: int, stream: int, payload: bytes) -> bytes:
    return header(DATA, flags, stream, len(payload)) + payload


@pytest.mark.parametrize(
    "frames",
    [
        HEADER.pack(1, DATA, SYN, 1, 0),
        header(4, 0, 0, 0),
        opened(2),
        opened(0),
        opened() + opened(),
        data_frame(0, 1, b"x"),
        data_frame(0, 0, b"x"),
        data_frame(0, 2, b"x"),
        header(WINDOW_UPDATE, 0, 5, 1),
        header(PING, SYN, 1, 0),
        header(GO_AWAY, 0, 1, 0),
        opened() + header(DATA, 0, 1, INITIAL_WINDOW + 1),
        header(DATA, SYN, 1, INITIAL_WINDOW + 1),
        opened() + data_frame(FIN, 1, b"end") + data_frame(0, 1, b"more"),
        opened() + header(WINDOW_UPDATE, 0, 1, MAX_LENGTH),
    ],
    ids=[
        "version", "type", "our parity", "the session's id", "opened twice", "never opened", "data of the session",
        "one of ours that never was", "credit for what never was", "ping on a stream", "goodbye on a stream",
        "beyond the window", "beyond the window at once", "after its end", "a window too large",
    ],
)  # fmt: skip
def test_a_breach_of_the_rules_is_the_peers_fault(frames: bytes) -> None:
    with pytest.raises(PeerFault):
        told(listener(), frames)


@pytest.mark.parametrize(
    ("frames", "answers"),
    [
        (opened(), [(WINDOW_UPDATE, ACK, 1, 0)]),
        (data_frame(SYN, 1, b"hello"), [(WINDOW_UPDATE, ACK, 1, 0)]),
        (header(PING, SYN, 0, 77), [(PING, ACK, 0, 77)]),
        (header(PING, ACK, 0, 77), []),
        (header(WINDOW_UPDATE, SYN | RST, 1, 0), []),
        (opened() + header(WINDOW_UPDATE, RST, 1, 0) + data_frame(0, 1, b"late"), [(WINDOW_UPDATE, ACK, 1, 0)]),
        (opened() + header(WINDOW_UPDATE, FIN, 1, 0) * 2, [(WINDOW_UPDATE, ACK, 1, 0)]),
        (header(GO_AWAY, 0, 0, Goodbye.NORMAL), []),
    ],
    ids=["open", "open with data", "ping", "pong", "opened and reset", "late", "ended twice", "goodbye"],
)  # fmt: skip
def test_what_is_allowed_is_answered(frames: bytes, answers: list[Header]) -> None:
    assert headers(said(told(listener(), frames))) == answers


def test_one_stream_too_many_is_reset_and_what_it_sends_is_dropped() -> None:
    session = told(listener(), *(opened(2 * n + 1) for n in range(MAX_STREAMS + 1)))
    last = 2 * MAX_STREAMS + 1
    assert headers(said(session))[-1] == (WINDOW_UPDATE, RST, last, 0)
    told(session, data_frame(0, last, b"late"))
    assert len(session.flows) == len(session.accepted) == MAX_STREAMS


def test_this_side_opens_no_more_than_the_other_takes() -> None:
    session = listener()
    flows = [session.open(0) for _ in range(MAX_STREAMS)]
    assert [flow.id for flow in flows[:3]] == [2, 4, 6]
    with pytest.raises(TooManyStreams):
        session.open(0)
    session.abort(flows[0])
    assert session.open(0).id == 2 * MAX_STREAMS + 2


def test_what_came_before_a_reset_is_still_read_and_holds_its_place() -> None:
    session = told(listener(), opened(), data_frame(0, 1, b"last"), header(WINDOW_UPDATE, RST, 1, 0))
    (flow,) = session.accepted
    assert flow.reset and session.flows
    assert session.take(flow, 100) == b"last"
    assert not session.flows


def test_an_end_waits_for_what_was_offered_before_it() -> None:
    session = listener()
    flow = session.open(0)
    session.offer(flow, memoryview(b"x" * (INITIAL_WINDOW + 1)))
    session.finish(flow)
    assert not any(flags & FIN for _, flags, _, _ in headers(said(session)))
    told(session, header(WINDOW_UPDATE, ACK, flow.id, 1))
    assert headers(said(session)) == [(DATA, FIN, flow.id, 1)]


def test_urgent_streams_go_first_and_equals_take_turns() -> None:
    session = listener()
    bulk, other, urgent = session.open(2), session.open(2), session.open(0)
    said(session)
    for flow in (bulk, other):
        session.offer(flow, memoryview(bytes(200_000)))
    session.offer(urgent, memoryview(b"token"))
    order = [stream for _, _, stream, _ in headers(said(session))]
    assert order[:5] == [urgent.id, bulk.id, other.id, bulk.id, other.id]


def test_a_large_write_fills_noise_messages_exactly() -> None:
    session = listener()
    flow = session.open(0)
    said(session)
    session.offer(flow, memoryview(bytes(200_000)))
    room = memoryview(bytearray(65_519))
    assert session.outgoing(room) == 65_519
    assert headers(bytes(room))[0] == (DATA, 0, flow.id, 65_507)


def test_windows_grow_out_of_a_budget_that_comes_back() -> None:
    budget = Budget(GROWTH_BYTES)
    session = Session(initiator=False, budget=budget)
    flows = [session.open(0) for _ in range(MAX_STREAMS)]
    assert flows[0].window > flows[1].window > INITIAL_WINDOW
    assert max(flow.window for flow in flows) <= MAX_WINDOW
    assert sum(flow.window for flow in flows) <= CONNECTION_BYTES
    for flow in flows:
        session.abort(flow)
    assert budget.left == GROWTH_BYTES


def test_a_window_of_single_bytes_takes_little_more_than_its_size() -> None:
    session = told(listener(), opened(), *(data_frame(0, 1, b"x") for _ in range(10_000)))
    (flow,) = session.accepted
    assert flow.buffered == 10_000
    assert len(flow.chunks) <= 3


def test_a_peer_that_asks_and_never_reads_is_at_fault() -> None:
    session = listener()
    with pytest.raises(PeerFault):
        for _ in range(10):
            told(session, header(PING, SYN, 0, 1) * 10_000)


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_any_bytes_are_frames_or_the_peers_fault(parts: list[bytes]) -> None:
    session = listener()
    try:
        for part in parts:
            session.receive(memoryview(part))
    except PeerFault:
        pass
    assert sum(flow.buffered for flow in session.flows.values()) <= sum(map(len, parts))


FRAMES = st.builds(
    lambda kind, flags, stream, payload: (
        data_frame(flags, stream, payload) if kind == DATA else header(kind, flags, stream, len(payload))
    ),
    st.integers(0, 4),
    st.integers(0, 15),
    st.integers(0, 6),
    st.binary(max_size=40),
)


@given(st.lists(FRAMES, max_size=60), st.integers(1, 30))
def test_a_peer_that_sends_any_frames_is_served_or_at_fault(frames: list[bytes], cut: int) -> None:
    session = listener()
    wire = b"".join(frames)
    read: dict[int, int] = {}
    try:
        for at in range(0, len(wire), cut):
            session.receive(memoryview(wire[at : at + cut]))
            for flow in list(session.flows.values()):
                if flow.buffered:
                    read[flow.id] = read.get(flow.id, 0) + len(session.take(flow, 10))
            said(session)
    except PeerFault:
        return
    assert len(session.flows) <= MAX_STREAMS


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(("open", "write", "read", "finish", "reset", "carry")),
        st.integers(0, 1),
        st.integers(0, 5),
        st.integers(1, 300_000),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_two_sessions_never_find_each_other_at_fault_and_lose_nothing(
    operations: list[tuple[str, int, int, int]],
) -> None:
    sides = [Session(initiator=side == 0, budget=Budget(GROWTH_BYTES)) for side in (0, 1)]
    flows: list[list[Flow]] = [[], []]
    sent: dict[tuple[int, int], int] = {}
    got: dict[tuple[int, int], int] = {}
    spoilt: set[int] = set()

    def carry(size: int) -> None:
        for side in (0, 1):
            wire = said(sides[side])
            other = sides[1 - side]
            for at in range(0, len(wire), size):
                other.receive(memoryview(wire[at : at + size]))
            flows[1 - side] += other.accepted
            other.accepted = []

    def read(side: int, flow: Flow, size: int) -> None:
        key = (1 - side, flow.id)
        got[key] = got.get(key, 0) + len(sides[side].take(flow, size))

    for name, side, which, size in operations:
        mine = flows[side]
        flow = mine[which % len(mine)] if mine else None
        if name == "open":
            flows[side].append(sides[side].open(which % 3))
        elif name == "carry":
            carry(size)
        elif flow is None:
            continue
        elif name == "write" and not (flow.pending or flow.fin_wanted or flow.reset):
            sides[side].offer(flow, memoryview(bytes(size)))
            sent[side, flow.id] = sent.get((side, flow.id), 0) + size
        elif name == "read" and flow.buffered:
            read(side, flow, size)
        elif name == "finish":
            sides[side].finish(flow)
        elif name == "reset":
            spoilt.add(flow.id)
            sides[side].abort(flow)
    for _ in range(60):
        carry(70_000)
        for side in (0, 1):
            for flow in flows[side]:
                while flow.buffered:
                    read(side, flow, 1 << 20)
    for (side, stream), count in sent.items():
        if stream not in spoilt:
            assert got.get((side, stream), 0) == count
