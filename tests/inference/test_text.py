"""Streaming text: nothing half is shown, nothing is lost, and a resumed answer joins exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.text import TextStream


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """data in pieces of these sizes, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(data):
        pieces.append(data[at : at + sizes[turn % len(sizes)]])
        at += sizes[turn % len(sizes)]
        turn += 1
    return pieces


def test_a_character_is_shown_when_its_last_byte_has_come() -> None:
    text = TextStream()
    assert [text.feed(bytes([byte])) for byte in "é€😀".encode()] == ["", "é", "", "", "€", "", "", "", "😀"]


def test_a_character_that_never_ends_becomes_a_replacement_character() -> None:
    text = TextStream()
    assert text.feed("€".encode()[:2]) == ""
    assert text.close() == "\ufffd"


def test_what_may_become_a_stop_string_is_held_back_until_it_does_not() -> None:
    text = TextStream(("###",))
    assert [text.feed(piece) for piece in (b"a#", b"#", b"b##", b"#c")] == ["a", "", "##b", ""]
    assert text.stopped
    assert text.close() == ""


def test_the_earliest_stop_string_ends_the_text() -> None:
    text = TextStream(("long stop", "p"))
    assert text.feed(b"keep, then a long stop") == "kee"


def test_held_text_is_shown_when_the_answer_ends_otherwise() -> None:
    text = TextStream(("\n\n",))
    assert text.feed(b"done\n") == "done"
    assert text.close() == "\n"


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [((b" Hello", b" you"), "Hello you"), ((b"Hello",), "Hello"), ((b"", b" ", b" x"), " x")],
)
def test_one_leading_space_is_dropped_where_the_vocabulary_put_it(
    pieces: tuple[bytes, ...], shown: str
) -> None:
    text = TextStream(lstrip=True)
    assert "".join(text.feed(piece) for piece in pieces) == shown


@given(
    words=st.text(alphabet="ab#\n é😀", max_size=40),
    stop=st.lists(st.text(alphabet="ab#\n é", min_size=1, max_size=4), max_size=3),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5),
)
def test_whatever_the_token_borders_the_text_is_that_before_the_first_stop(
    words: str, stop: list[str], sizes: list[int]
) -> None:
    text = TextStream(tuple(stop))
    shown = ""
    for piece in cut(words.encode(), sizes):
        shown += text.feed(piece)
        if text.stopped:
            break
    shown += text.close()
    places = [words.find(sequence) for sequence in stop if sequence in words]
    if not places:
        assert shown == words and not text.stopped
    else:
        # A longer stop string that starts earlier may still be open when a shorter one is already met.
        assert text.stopped and words.startswith(shown)
        assert not any(sequence in shown for sequence in stop)


@given(
    data=st.binary(max_size=40),
    stop=st.lists(st.text(alphabet="ab", min_size=1, max_size=3), max_size=2),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    cut_at=st.integers(0, 40),
)
def test_a_resumed_stream_shows_exactly_the_rest(
    data: bytes, stop: list[str], sizes: list[int], cut_at: int
) -> None:
    pieces = cut(data, sizes)
    whole, first, second = (TextStream(tuple(stop), lstrip=True) for _ in range(3))
    expected = [whole.feed(piece) for piece in pieces] + [whole.close()]
    before = [first.feed(piece) for piece in pieces[:cut_at]]
    for piece in pieces[:cut_at]:
        second.feed(piece)
    after = [second.feed(piece) for piece in pieces[cut_at:]] + [second.close()]
    assert before + after == expected
