"""Frames: however bytes arrive they are the same frames, and a length is believed only up to the limit."""

from __future__ import annotations

from itertools import pairwise

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import FRAME_INVALID, FRAME_TOO_LARGE, TetherError, WireError
from p2p.frames import FrameParser, FrameReader, frame
from p2p.identity import PeerId
from p2p.pipe import pipe
from p2p.rpc.frames import MAX_FRAMES, Block, Data, End, Failed, Hello, Open, pack, unpack


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


@given(st.lists(st.binary(max_size=40), max_size=10), st.lists(st.integers(0, 10_000), max_size=20))
def test_frames_are_the_same_however_they_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    parser = FrameParser(40)
    wire = b"".join(map(frame, bodies))
    assert [body for chunk in chunks(wire, cuts) for body in parser.feed(chunk)] == bodies
    assert parser.held_bytes == 0


@given(st.lists(st.binary(max_size=64), max_size=40))
def test_any_bytes_are_frames_or_too_large_and_little_of_them_is_held(arriving: list[bytes]) -> None:
    parser = FrameParser(100)
    try:
        for data in arriving:
            for body in parser.feed(data):
                assert len(body) <= 100
            assert parser.held_bytes < 104 + 64
    except TetherError as error:
        assert error.code is FRAME_TOO_LARGE


def test_a_length_over_the_limit_is_refused_before_any_of_its_bytes() -> None:
    parser = FrameParser(1 << 20)
    with pytest.raises(TetherError) as caught:
        parser.feed((0xFFFFFFFF).to_bytes(4, "big"))
    assert caught.value.code is FRAME_TOO_LARGE


async def test_a_reader_returns_one_frame_or_all_that_are_there_and_then_the_end() -> None:
    ours, theirs = pipe(PeerId("A"), PeerId("B"))
    reader = FrameReader(theirs, 100)
    await ours.write(frame(b"a") + frame(b"") + frame(b"c") + frame(b"d")[:3])
    assert await reader.one() == b"a"
    assert await reader.some() == [b"", b"c"]
    await ours.write(frame(b"d")[3:])
    await ours.close()
    assert await reader.some() == [b"d"]
    assert await reader.some() == []
    assert await reader.one() is None


@given(st.binary(max_size=200))
def test_any_body_is_a_frame_of_the_table_or_invalid(body: bytes) -> None:
    try:
        read = unpack(body)
    except TetherError as error:
        assert error.code is FRAME_INVALID
    else:
        assert unpack(pack(read)[4:]) == read


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary()
    | st.text()
    | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.integers(0, 15), st.lists(VALUES, max_size=9))
def test_any_array_that_begins_like_a_frame_is_one_or_invalid(kind: int, fields: list[object]) -> None:
    try:
        unpack(msgpack.packb([2, 0, [[kind, *fields]]]))
    except TetherError as error:
        assert error.code is FRAME_INVALID


def test_text_that_is_no_unicode_is_invalid() -> None:
    body = msgpack.packb([2, 0, [[3, 1, "x", None, 5, 0, b"r"]]]).replace(b"\xa1x", b"\xa1\xff")
    with pytest.raises(TetherError) as caught:
        unpack(body)
    assert caught.value.code is FRAME_INVALID


def test_blocks_are_plain_msgpack_arrays_that_any_implementation_reads() -> None:
    frames = [Open(7, "infer", 1500, 262_144, 0, b"request"), Failed(7, WireError("CAPACITY", "Full."))]
    wire = pack(Block(3, list(frames)))
    assert int.from_bytes(wire[:4], "big") == len(wire) - 4
    error = {"code": "CAPACITY", "detail": "Full.", "field": None, "retryAfterS": None, "rates": None}
    failed = [11, 7, error]
    opened = [3, 7, "infer", 1500, 262_144, 0, b"request"]
    assert msgpack.unpackb(wire[4:]) == [2, 3, [opened, failed], False, None]
    later = [2, 5, [[8, 7, b"message", "a field of a later version"]], False, None, "another"]
    assert unpack(msgpack.packb(later)) == Block(5, [Data(7, b"message")])


def test_a_block_of_more_frames_than_allowed_is_invalid_before_they_take_memory() -> None:
    assert len(unpack(pack(Block(0, [End(1)] * MAX_FRAMES))[4:]).frames) == MAX_FRAMES  # type: ignore[union-attr]
    with pytest.raises(TetherError) as caught:
        unpack(msgpack.packb([2, 0, [[10, 1]] * (MAX_FRAMES + 1)]))
    assert caught.value.code is FRAME_INVALID


@pytest.mark.parametrize(
    "fields",
    [
        [1, 1, b"short", 0, 0, False, 0],
        [1, 1, b"i" * 8, -1, 0, False, 0],
        [1, 1, b"i" * 8, 1 << 24, 0, False, 0],
        [1, 1, b"i" * 8, 0, 3, False, 0],
        [2, -1, []],
        [2, 1 << 63, []],
        [2, 0, [[3, 0, "x", None, 0, 0, b""]]],
        [2, 0, [[3, 1 << 40, "x", None, 0, 0, b""]]],
        [2, 0, [[3, 1, "x" * 65, None, 0, 0, b""]]],
        [2, 0, [[3, 1, "x", -1, 0, 0, b""]]],
        [2, 0, [[1, 1, b"i" * 8, 0, 0, False, 0]]],
        [2, 0, [[99, 1]]],
        [3, 1, "x", None, 0, 0, b""],
        [],
        {"call": 1},
    ],
)
def test_fields_out_of_their_bounds_are_invalid(fields: object) -> None:
    with pytest.raises(TetherError) as caught:
        unpack(msgpack.packb(fields))
    assert caught.value.code is FRAME_INVALID


def test_what_is_packed_is_unpacked() -> None:
    for whole in (Hello(1, b"i" * 8, 3, 2, True, 17), Block(5, [Data(1, b"m")], hurry=True)):
        assert unpack(pack(whole)[4:]) == whole
