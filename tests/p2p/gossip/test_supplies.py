"""Who says that it gets an author's messages anyway, and for how long that counts."""

from __future__ import annotations

import hashlib

import pytest
from libp2p.peer.id import ID

from p2p.host.gossip import supplies
from p2p.host.gossip.supplies import SUPPLIED_S, Supplies
from p2p.identity import node_id_of

PEER, OTHER = (ID.from_base58(node_id_of(hashlib.sha256(name).digest())) for name in (b"one", b"other"))


def test_a_word_counts_for_one_author_and_one_neighbour_and_for_its_time() -> None:
    known = Supplies()
    known.said(PEER, b"author", 0.0)
    assert known.has(PEER, b"author", SUPPLIED_S - 1)
    assert not known.has(PEER, b"another", 1.0)
    assert not known.has(OTHER, b"author", 1.0)
    assert not known.has(PEER, b"author", SUPPLIED_S)


def test_who_asks_for_a_message_is_passed_the_next_ones_at_once() -> None:
    known = Supplies()
    known.said(PEER, b"author", 0.0)
    known.lacked(PEER, b"author")
    assert not known.has(PEER, b"author", 1.0)


def test_it_is_said_once_in_a_while_however_many_copies_come() -> None:
    known = Supplies()
    said = [known.say(PEER, b"author", float(now)) for now in range(int(2 * SUPPLIED_S))]
    assert [now for now, told in enumerate(said) if told] == [0, int(SUPPLIED_S)]


def test_a_new_connection_begins_without_words() -> None:
    known = Supplies()
    known.said(PEER, b"author", 0.0)
    assert known.say(PEER, b"author", 0.0)
    known.forget(PEER)
    assert not known.has(PEER, b"author", 1.0)
    assert known.say(PEER, b"author", 1.0)


def test_words_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supplies, "MAX_SUPPLIES", 2)
    known = Supplies()
    for author in (b"a", b"b", b"c"):
        known.said(PEER, author, 0.0)
    assert [known.has(PEER, author, 1.0) for author in (b"a", b"b", b"c")] == [False, True, True]
