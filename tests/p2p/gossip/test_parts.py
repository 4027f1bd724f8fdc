"""Gossip's parts without a network: the judge, the outbox, what was seen."""

from __future__ import annotations

import hashlib

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.pubsub.pb import rpc_pb2

from p2p.host.framing import framed
from p2p.host.gossip import outbox as bounds
from p2p.host.gossip import seen as memory
from p2p.host.gossip.judge import MUTED_ABOVE, TOO_MANY, Judge
from p2p.host.gossip.outbox import MAX_CONTROL, Outbox
from p2p.host.gossip.seen import SEEN_S, Seen
from p2p.host.scores import HALF_LIFE_S
from p2p.identity import node_id_of
from p2p.transport import TopicLimits

PEER, OTHER = (node_id_of(hashlib.sha256(name).digest()) for name in (b"one", b"other"))
LIMITS = TopicLimits(message_bytes=100, per_s=10.0, burst=20, backlog=3)


# ── Judge ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_peer_may_bring_its_burst_and_then_as_much_as_the_rate_allows() -> None:
    judge = Judge()
    at_once = [judge.admits(PEER, "t", 1, LIMITS, 0.0) for _ in range(25)]
    assert at_once == [True] * 20 + [False] * 5
    later = [judge.admits(PEER, "t", 1, LIMITS, 1.0) for _ in range(15)]
    assert later == [True] * 10 + [False] * 5


def test_another_topic_and_another_peer_have_their_own_rate() -> None:
    judge = Judge()
    for _ in range(21):
        judge.admits(PEER, "t", 1, LIMITS, 0.0)
    assert judge.admits(PEER, "u", 1, LIMITS, 0.0)
    assert judge.admits(OTHER, "t", 1, LIMITS, 0.0)


def test_what_is_too_long_is_dropped_and_counted() -> None:
    judge = Judge()
    brought = 0
    while not judge.muted(PEER, 0.0):
        assert not judge.admits(PEER, "t", 101, LIMITS, 0.0)
        brought += 1
    assert brought == MUTED_ABOVE + 1


def test_who_never_stops_is_muted_and_heard_again_when_its_marks_have_faded() -> None:
    judge = Judge()
    for _ in range(20 + int(MUTED_ABOVE / TOO_MANY) + 1):
        judge.admits(PEER, "t", 1, LIMITS, 0.0)
    assert judge.muted(PEER, 0.0)
    assert not judge.admits(PEER, "u", 1, LIMITS, 0.0)
    assert judge.admits(PEER, "t", 1, LIMITS, HALF_LIFE_S)


def test_one_clock_that_was_off_mutes_nobody() -> None:
    judge = Judge()
    for now in range(0, 600, 10):
        judge.blame(PEER, float(now))
    assert not judge.muted(PEER, 600.0)


# ── Outbox ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_waits_goes_in_order_and_control_before_it() -> None:
    outbox = Outbox()
    outbox.put("t", b"1", 9)
    outbox.put("u", b"2", 9)
    outbox.put("t", b"3", 9)
    control = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid="t")])
    outbox.push(control)
    assert await outbox.next() == framed(control.SerializeToString()) + b"123"
    assert len(outbox) == 0


async def test_a_slow_peer_loses_the_oldest_of_the_topic_that_is_full() -> None:
    outbox = Outbox()
    outbox.put("u", b"u", 3)
    for number in range(5):
        outbox.put("t", b"%d" % number, 3)
    assert await outbox.next() == b"u234"


async def test_all_topics_together_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_OUTBOX_BYTES", 8)
    outbox = Outbox()
    for topic in "abc":
        outbox.put(topic, topic.encode() * 4, 100)
    for _ in range(MAX_CONTROL + 7):
        outbox.push(rpc_pb2.RPC())
    assert len(outbox) == MAX_CONTROL + 2
    assert (await outbox.next())[-8:] == b"bbbbcccc"


async def test_a_reader_waits_for_news_and_ends_when_it_is_closed() -> None:
    outbox, read = Outbox(), list[bytes]()

    async def reader() -> None:
        while data := await outbox.next():
            read.append(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        outbox.put("t", b"late", 3)
        await trio.testing.wait_all_tasks_blocked()
        outbox.close()
    assert read == [b"late"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.binary(min_size=1, max_size=5), st.integers(1, 4))))
def test_any_puts_leave_each_topic_its_newest(puts: list[tuple[str, bytes, int]]) -> None:
    outbox = Outbox()
    backlogs = {topic: backlog for topic, _, backlog in reversed(puts)}
    for topic, frame, _ in puts:
        outbox.put(topic, frame, backlogs[topic])
    left = list(outbox._frames.values())
    for topic, backlog in backlogs.items():
        of_topic = [frame for name, frame, _ in puts if name == topic]
        assert [frame for name, frame in left if name == topic] == of_topic[-backlog:]
    assert outbox._bytes == sum(len(frame) for _, frame in left)


# ── Seen ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ids_are_remembered_for_their_time_and_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    seen = Seen(lambda: now[0])
    seen.add(b"a")
    now[0] = SEEN_S - 1
    seen.add(b"b")
    assert seen.has(b"a")
    now[0] = SEEN_S
    seen.add(b"c")
    assert [seen.has(one) for one in (b"a", b"b", b"c")] == [False, True, True]
    monkeypatch.setattr(memory, "MAX_SEEN", 3)
    for number in range(10):
        seen.add(b"%d" % number)
    assert len(seen) == 3
