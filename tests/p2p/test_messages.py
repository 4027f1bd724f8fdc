"""The messages as any msgpack implementation sees them: camelCase maps; and any bytes are a message or invalid."""

from __future__ import annotations

import inspect

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import messages
from p2p.errors import CATALOGUE, FRAME_INVALID, INTERNAL, TetherError, WireError
from p2p.identity import PeerId
from p2p.messages import (
    HealthReport,
    InferChunk,
    InferRequest,
    Message,
    Method,
    Presence,
    RosterRequest,
    SignedGrant,
)
from p2p.wire import decode, encode

KINDS = [
    kind
    for _, kind in inspect.getmembers(messages, inspect.isclass)
    if issubclass(kind, Message) and kind is not Message
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary()
    | st.text()
    | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def test_an_infer_request_has_the_keys_of_the_contract() -> None:
    request = InferRequest("t", "m", "v", b"sealed", "c", "r", "00-trace", SignedGrant(b"g", b"s", b"c"))
    assert msgpack.unpackb(encode(request)) == {
        "tenantId": "t",
        "modelId": "m",
        "version": "v",
        "input": b"sealed",
        "correlationId": "c",
        "retryToken": "r",
        "traceId": "00-trace",
        "grant": {"grant": b"g", "signature": b"s", "credential": b"c"},
    }


def test_an_infer_chunk_and_a_health_report_have_the_keys_of_the_contract() -> None:
    chunk = msgpack.unpackb(encode(InferChunk("c", 0, b"p", False, 1, b"h")))
    assert set(chunk) == {"correlationId", "seq", "payload", "done", "attempt", "prevHash"}
    report = msgpack.unpackb(encode(HealthReport(PeerId("w"), 4, "cpu", (), load=1)))
    assert report == {"workerId": "w", "capacity": 4, "gpuClass": "cpu", "modelCache": [], "load": 1}


def test_a_message_from_another_implementation_is_read_and_unknown_fields_are_ignored() -> None:
    wire = msgpack.packb({"later": [1, 2], "region": "eu", "roles": ["worker"], "addresses": []})
    assert decode(wire, Presence) == Presence("eu", ("worker",), ())


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\xc1",
        msgpack.packb({"region": 7}),
        msgpack.packb({"region": "eu"}) + b"\x00",
        msgpack.packb({"region": "eu"})[:-1],
        b"\x81\xa6region\xa1\xff",
        b"\x91" * 10_000 + b"\xc0",
        msgpack.packb({"region": msgpack.ExtType(5, b"x")}),
    ],
)
def test_what_is_no_message_is_invalid(wire: bytes) -> None:
    with pytest.raises(TetherError) as caught:
        decode(wire, RosterRequest)
    assert caught.value.code is FRAME_INVALID


@given(st.sampled_from(KINDS), st.binary(max_size=200) | VALUES.map(msgpack.packb))
def test_any_bytes_are_a_message_or_invalid(kind: type[Message], wire: bytes) -> None:
    try:
        message = decode(wire, kind)
    except TetherError as error:
        assert error.code is FRAME_INVALID
    else:
        assert decode(encode(message), kind) == message


@given(st.sampled_from(KINDS), st.data())
def test_maps_with_the_right_keys_and_any_values_are_messages_or_invalid(
    kind: type[Message], data: st.DataObject
) -> None:
    fields = kind.__struct_encode_fields__
    wire = msgpack.packb({field: data.draw(VALUES) for field in fields})
    try:
        decode(wire, kind)
    except TetherError as error:
        assert error.code is FRAME_INVALID


def test_every_method_has_a_name_of_its_own() -> None:
    names = [method.name for _, method in inspect.getmembers(messages) if isinstance(method, Method)]
    assert len(names) == len(set(names)) >= 10


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_code_crosses_the_wire_and_says_what_to_do_next(name: str) -> None:
    error = TetherError(CATALOGUE[name], "It went wrong.", field="f", retry_after_s=1.5)
    back = TetherError.from_wire(decode(encode(error.to_wire()), WireError))
    assert (back.code, back.detail, back.field, back.retry_after_s) == (
        error.code,
        "It went wrong.",
        "f",
        1.5,
    )
    assert back.code.advice.endswith(".") and 400 <= back.code.status < 600


def test_a_code_of_a_later_version_is_an_internal_error_that_keeps_its_words() -> None:
    back = TetherError.from_wire(WireError("FROM_THE_FUTURE", "Words. " * 1000))
    assert back.code is INTERNAL and back.detail.startswith("Words.") and len(back.detail) == 1000
