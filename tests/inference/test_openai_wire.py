"""What is said to servers that others wrote, what they say, and how their text becomes positions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine import Generation, Prompt
from inference.openai_text import EMPTY, pieces_of, text_of
from inference.openai_wire import (
    MAX_LINE_BYTES,
    UNKNOWN_CONTEXT,
    Lines,
    Reading,
    Server,
    error_of,
    read_count,
    read_models,
    request_body,
)
from p2p.content import ChatMessage, Sampling, Tool
from p2p.errors import (
    CAPACITY,
    CATALOGUE,
    CONTEXT_EXCEEDED,
    ENGINE_FAILED,
    FIELD_INVALID,
    Code,
    TetherError,
)

CHAT = Prompt((ChatMessage("user", "Hi"),))
TEXT = Prompt(text="Once")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_comes_back_from_its_pieces_and_any_number_of_them_is_a_text(text: str) -> None:
    ids = pieces_of(text)
    assert text_of(ids) == text
    assert all(text.startswith(text_of(ids[:count])) for count in range(len(ids)))
    assert text_of((EMPTY, *ids, EMPTY)) == text


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_ids_of_a_stranger_are_a_text_or_refused(ids: list[int]) -> None:
    try:
        assert isinstance(text_of(ids), str)
    except TetherError as error:
        assert (error.code, error.field) == (FIELD_INVALID, "resume")


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(1, 40)))
def test_events_are_the_same_however_they_are_cut(payloads: list[bytes], cuts: list[int]) -> None:
    payloads = [payload.replace(b"\n", b"").replace(b"\r", b"").strip() for payload in payloads]
    sent = b"".join(b"data: " + payload + b"\r\n\r\n" for payload in payloads)
    lines, got, at = Lines(), list[bytes](), 0
    for size in [*cuts, len(sent)]:
        got += lines.feed(sent[at : at + size])
        at += size
    assert got == payloads


def test_a_line_without_an_end_is_refused() -> None:
    lines = Lines()
    with pytest.raises(TetherError):
        for _ in range(MAX_LINE_BYTES // 65_536 + 1):
            list(lines.feed(b"x" * 65_536))


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_whatever_a_server_says_is_read_or_its_own_fault(data: bytes) -> None:
    reading = Reading()
    for read in (reading.text, lambda body: read_models(body, "m")):
        try:
            read(data)
        except TetherError as error:
            assert error.code is ENGINE_FAILED
    assert read_count(Server("llama-server", "m", 10), TEXT, data) >= 1


def test_the_kind_of_a_server_and_its_context_are_in_its_list_of_models() -> None:
    vllm = {"data": [{"id": "x"}, {"id": "m", "owned_by": "vllm", "max_model_len": 4096}]}
    assert read_models(json.dumps(vllm).encode(), "m") == Server("vllm", "m", 4096)
    plain = {"data": [{"id": "m"}]}
    assert read_models(json.dumps(plain).encode(), "m") == Server("other", "m", UNKNOWN_CONTEXT)
    with pytest.raises(TetherError, match="it has: m"):
        read_models(json.dumps(plain).encode(), "n")


def test_only_what_a_server_knows_is_asked_of_it() -> None:
    sampling = Sampling(top_k=5, min_p=0.1, repeat_penalty=1.2, stop=("a",), seed=2**60 + 3)
    asked = Generation((0,), 9, sampling, source=CHAT)
    plain = request_body(Server("other", "m", 99), asked, "")
    assert not plain.keys() & {"top_k", "min_p", "repeat_penalty", "repetition_penalty"}
    assert (plain["seed"], plain["stop"], plain["max_tokens"]) == (3, ["a"], 9)
    vllm = request_body(Server("vllm", "m", 99), asked, "")
    assert (vllm["top_k"], vllm["min_p"], vllm["repetition_penalty"]) == (5, 0.1, 1.2)


def test_an_answer_that_was_begun_is_gone_on_with_where_the_server_can() -> None:
    begun = "Hello the"
    asked = Generation((0,), 9, resume=pieces_of(begun), source=CHAT)
    vllm = request_body(Server("vllm", "m", 99), asked, begun)
    assert vllm["messages"][-1] == {"role": "assistant", "content": begun}
    assert (vllm["continue_final_message"], vllm["add_generation_prompt"]) == (True, False)
    assert vllm["max_tokens"] == 9 - len(asked.resume)
    text = Generation((0,), 9, resume=pieces_of(begun), source=TEXT)
    assert request_body(Server("other", "m", 99), text, begun)["prompt"] == "OnceHello the"
    assert Server("other", "m", 99).continues(TEXT) and not Server("other", "m", 99).continues(CHAT)


def test_tools_go_out_and_calls_come_back_as_the_text_that_gateways_read() -> None:
    asked = Generation(
        (0,), 9, source=Prompt(CHAT.messages, tools=(Tool("add", "adds", '{"type":"object"}'),))
    )
    assert request_body(Server("vllm", "m", 99), asked, "")["tools"][0]["function"]["name"] == "add"
    reading = Reading()
    for part in ({"name": "add", "arguments": ""}, {"arguments": '{"a":'}, {"arguments": "1}"}):
        delta = {"tool_calls": [{"index": 0, "function": part}]}
        assert reading.text(json.dumps({"choices": [{"delta": delta}]}).encode()) == ""
    assert reading.calls() == '<tool_call>\n{"name": "add", "arguments": {"a":1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, FIELD_INVALID),
        (422, FIELD_INVALID),
        (401, ENGINE_FAILED),
        (404, ENGINE_FAILED),
        (302, ENGINE_FAILED),
        (429, CAPACITY),
        (503, CAPACITY),
        (500, ENGINE_FAILED),
    ],
)
def test_each_status_has_its_code(status: int, code: Code) -> None:
    assert error_of(status, b"\xff no").code is code
    assert code.name in CATALOGUE
    assert error_of(400, b"maximum context length").code is CONTEXT_EXCEEDED
