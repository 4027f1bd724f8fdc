"""The store of values, and the checks that they go through."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import FIELD_INVALID, FRAME_INVALID, TetherError
from p2p.host.kad import store as limits
from p2p.host.kad.messages import GET_VALUE, Note, read, write
from p2p.host.kad.store import MAX_BYTES_OF_PEER, MAX_VALUES_OF_PEER, VALUE_TTL_S, Store
from p2p.identity import PeerId, node_id_of
from p2p.values import MAX_VALUE_BYTES, ContentAddressed, parsed_key, value_key

PEER, OTHER = (node_id_of(hashlib.sha256(name).digest()) for name in (b"one", b"other"))


def test_a_value_lasts_a_day_after_it_was_last_put() -> None:
    store = Store()
    assert store.put(b"k", b"v", PEER, 0.0)
    assert store.put(b"k", b"v", OTHER, 100.0)
    assert store.get(b"k", VALUE_TTL_S + 99) == b"v"
    assert store.get(b"k", VALUE_TTL_S + 100) is None
    store.put(b"k", b"v", PEER, 0.0)
    store.sweep(VALUE_TTL_S)
    assert len(store) == 0


def test_one_peer_cannot_fill_the_store_by_number_and_gets_its_room_back() -> None:
    store = Store()
    kept = [store.put(b"%d" % key, b"v", PEER, 0.0) for key in range(MAX_VALUES_OF_PEER + 2)]
    assert kept == [True] * MAX_VALUES_OF_PEER + [False] * 2
    assert store.put(b"0", b"another", PEER, 0.0)
    assert store.put(b"more", b"v", OTHER, 0.0)
    store.drop(b"1")
    assert store.put(b"more of this", b"v", PEER, 0.0)


def test_one_peer_cannot_fill_the_store_by_size() -> None:
    store = Store()
    large = bytes(MAX_VALUE_BYTES)
    kept = [store.put(b"%d" % key, large, PEER, 0.0) for key in range(MAX_BYTES_OF_PEER // len(large) + 1)]
    assert (kept[-1], all(kept[:-1])) == (False, True)
    assert store.put(b"0", large[1:], PEER, 0.0)


def test_what_was_put_longest_ago_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_STORE_BYTES", 10)
    store = Store()
    for key in (b"a", b"b", b"a", b"c"):
        store.put(key, b"four", None, 0.0)
    assert [store.get(key, 0.0) for key in (b"a", b"b", b"c")] == [b"four", None, b"four"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from((b"a", b"b", b"c")), st.binary(max_size=9), st.sampled_from((PEER, OTHER, None))
        )
    )
)
def test_any_order_of_puts_is_counted_right(puts: list[tuple[bytes, bytes, PeerId | None]]) -> None:
    store = Store()
    for now, (key, value, giver) in enumerate(puts):
        assert store.put(key, value, giver, float(now))
    expected = {key: value for key, value, _ in puts}
    assert {key: store.get(key, 0.0) for key in expected} == expected
    assert store._bytes == sum(map(len, expected.values()))
    for key in expected:
        store.drop(key)
    assert (store._given, store._bytes) == ({}, 0)


def test_content_proves_itself() -> None:
    name = hashlib.sha256(b"manifest").hexdigest()
    check = ContentAddressed()
    assert check.final
    assert check.rank(name, b"manifest") is not None
    assert check.rank(name, b"manifest ") is None
    assert check.rank(name.upper(), b"manifest") is None


@pytest.mark.parametrize("key", ["", "x", "/a", "/a/", "//b", "a/b", "/ä/b", "/a/" + "b" * 200])
def test_a_key_has_a_namespace_and_a_name(key: str) -> None:
    with pytest.raises(TetherError) as error:
        parsed_key(key)
    assert error.value.code is FIELD_INVALID


def test_a_name_may_hold_slashes() -> None:
    assert parsed_key(value_key("ns", "a/b")) == ("ns", "a/b")


def test_a_value_passes_the_wire_and_one_of_another_key_does_not() -> None:
    note = Note(GET_VALUE, b"/ns/name", value=b"")
    assert read(write(note)) == note
    data = write(Note(GET_VALUE, b"/ns/name", value=b"v")).replace(b"/ns/name", b"/ns/game", 1)
    with pytest.raises(TetherError) as error:
        read(data)
    assert error.value.code is FRAME_INVALID
