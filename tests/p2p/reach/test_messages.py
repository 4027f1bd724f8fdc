"""AutoNAT v2's messages, and the protobufs beneath them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import FRAME_INVALID, TetherError
from p2p.host.protobuf import bytes_in, fields, fixed64, lengthy, number_in, varint
from p2p.host.reach.messages import (
    Data,
    DataRequest,
    DialRequest,
    DialResponse,
    DialStatus,
    Message,
    Status,
    read,
    read_nonce,
    write,
    write_nonce,
)

NUMBERS = st.integers(min_value=0, max_value=2**64 - 1)
ADDRESSES = st.lists(
    st.sampled_from(["/ip4/11.0.0.1/tcp/1", "/ip6/2a00::1/tcp/65535", "/dns4/a.example/tcp/2"]), max_size=4
).map(tuple)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(DialRequest, ADDRESSES, NUMBERS),
    st.builds(DialResponse, st.sampled_from(Status), NUMBERS, st.sampled_from(DialStatus)),
    st.builds(DataRequest, NUMBERS, NUMBERS),
    st.builds(Data, st.binary(max_size=50)),
)


@given(MESSAGES)
def test_a_message_passes_the_wire(message: Message) -> None:
    assert read(write(message)) == message


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_the_peers_fault(raw: bytes) -> None:
    for reader in (read, read_nonce):
        try:
            reader(raw)
        except TetherError as error:
            assert error.code is FRAME_INVALID


@given(MESSAGES, st.data())
def test_a_message_cut_short_or_twisted_harms_nobody(message: Message, data: st.DataObject) -> None:
    raw = bytearray(write(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    except TetherError as error:
        assert error.code is FRAME_INVALID


def test_the_bytes_are_those_of_the_specification() -> None:
    assert write(DialResponse(Status.OK, 1, DialStatus.DIAL_ERROR)) == bytes.fromhex("12 07 08c801 1001 1864")
    assert write_nonce(1) == bytes.fromhex("09 0100000000000000")
    assert read_nonce(write_nonce(2**64 - 1)) == 2**64 - 1
    assert write(DataRequest(0, 30_000)) == bytes.fromhex("1a 06 0800 10b0ea01")


def test_an_address_that_cannot_be_read_keeps_its_place() -> None:
    listed = lengthy(1, b"junk") + lengthy(1, bytes.fromhex("040b000001060001"))
    assert read(lengthy(1, listed + fixed64(2, 7))) == DialRequest(("", "/ip4/11.0.0.1/tcp/1"), 7)


@given(NUMBERS)
def test_a_number_is_the_same_behind_its_varint(number: int) -> None:
    assert number_in(fields(varint(1, number)), 1) == number
    assert len(varint(1, number)) <= 11


@pytest.mark.parametrize("raw", ["08", "0880", "0a0501", "0b", "0900", "0f", "08" + "ff" * 11])
def test_what_is_no_protobuf_is_refused(raw: str) -> None:
    with pytest.raises(TetherError):
        fields(bytes.fromhex(raw))


def test_too_many_fields_are_refused_and_kinds_are_not_confused() -> None:
    with pytest.raises(TetherError):
        fields(varint(1, 0) * 65)
    with pytest.raises(TetherError):
        number_in(fields(lengthy(1, b"")), 1)
    with pytest.raises(TetherError):
        bytes_in(fields(varint(1, 1)), 1)
