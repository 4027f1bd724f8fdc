"""What the shim makes of a body: a submission, or an error that names the field."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content import ChatMessage, Sampling
from p2p.errors import TetherError
from tests.tetherd.http.scripted import CHAT, HELLO, ScriptedInference
from tetherd.http.openapi import OPENAPI
from tetherd.http.requests import Parsed, parse_chat, parse_completion
from tetherd.http.responses import error_bytes
from tetherd.tenants.keys import make_key

KNOWN = {
    "model",
    "messages",
    "prompt",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "max_tokens",
}


def test_penalties_biases_and_a_schema_reach_the_sampling() -> None:
    schema = {
        "type": "object",
        "properties": {"b": {"type": "string"}, "a": {"$ref": "#/$defs/n"}},
        "$defs": {"n": {}},
    }
    body = {
        **HELLO,
        "presence_penalty": 0.5,
        "frequency_penalty": -2,
        "repeat_penalty": 1.1,
        "typical_p": 0.9,
        "logit_bias": {"17": -100, "5": 1.5},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "strict": True, "schema": schema},
        },
    }
    sampling = parse_chat(json.dumps(body).encode(), {}).submissions[0].sampling
    assert sampling == Sampling(
        presence_penalty=0.5,
        frequency_penalty=-2.0,
        repeat_penalty=1.1,
        typical_p=0.9,
        logit_bias=((5, 1.5), (17, -100.0)),
        json_schema=json.dumps(schema, separators=(",", ":")),
    )


async def test_what_the_client_asked_for_reaches_the_gateway(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    body = {
        "model": "demo",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
        ],
        "temperature": 0,
        "top_p": 0.5,
        "seed": -1,
        "stop": "END",
        "max_tokens": 5,
        "max_completion_tokens": 7,
        "user": "somebody",
        "n": 1,
        "tools": [],
    }
    await client.post(CHAT, json=body, headers={"idempotency-key": "k", "traceparent": "00-aa-bb-01"})
    [submission] = inference.submissions
    assert submission.messages == (ChatMessage("system", "Be brief."), ChatMessage("user", "Hello"))
    assert submission.sampling == Sampling(temperature=0.0, top_p=0.5, seed=2**63 - 1, stop=("END",))
    assert (submission.max_tokens, submission.seed_given) == (7, True)
    assert (submission.idempotency_key, submission.traceparent) == ("k", "00-aa-bb-01")


BAD_BODIES: list[tuple[Any, str, str | None]] = [
    (b"", "JSON_INVALID", None),
    (b"{", "JSON_INVALID", None),
    (b"[]", "JSON_INVALID", None),
    (b"\xff", "JSON_INVALID", None),
    (b'{"temperature": NaN}', "JSON_INVALID", None),
    (b'{"temperature": Infinity}', "JSON_INVALID", None),
    (b"[" * 3_000, "JSON_INVALID", None),
    (b'{"model": "demo", "model": "demo"}', "FIELD_INVALID", "model"),
    ({"messages": HELLO["messages"]}, "FIELD_REQUIRED", "model"),
    ({"model": "demo"}, "FIELD_REQUIRED", "messages"),
    ({**HELLO, "model": 7}, "FIELD_INVALID", "model"),
    ({**HELLO, "model": "x" * 257}, "FIELD_INVALID", "model"),
    ({**HELLO, "messages": []}, "FIELD_INVALID", "messages"),
    ({**HELLO, "messages": "Hello"}, "FIELD_INVALID", "messages"),
    ({**HELLO, "messages": ["Hello"]}, "FIELD_INVALID", "messages[0]"),
    ({**HELLO, "messages": [{"role": "user"}]}, "FIELD_REQUIRED", "messages[0].content"),
    ({**HELLO, "messages": [{"role": "user", "content": None}]}, "FIELD_REQUIRED", "messages[0].content"),
    ({**HELLO, "messages": [{"role": "user", "content": 1}]}, "FIELD_INVALID", "messages[0].content"),
    ({**HELLO, "messages": [{"role": "boss", "content": "x"}]}, "FIELD_INVALID", "messages[0].role"),
    (
        {**HELLO, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "FIELD_INVALID",
        "messages[0].content[0].type",
    ),
    (
        b'{"model": "demo", "messages": [{"role": "user", "content": "\\ud800"}]}',
        "FIELD_INVALID",
        "messages[0].content",
    ),
    ({**HELLO, "max_tokens": -1}, "OUT_OF_RANGE", "max_tokens"),
    ({**HELLO, "max_tokens": 0}, "OUT_OF_RANGE", "max_tokens"),
    ({**HELLO, "max_tokens": 2**63}, "OUT_OF_RANGE", "max_tokens"),
    ({**HELLO, "max_tokens": 1.5}, "FIELD_INVALID", "max_tokens"),
    ({**HELLO, "max_completion_tokens": True}, "FIELD_INVALID", "max_completion_tokens"),
    ({**HELLO, "temperature": -0.1}, "OUT_OF_RANGE", "temperature"),
    ({**HELLO, "temperature": 2.1}, "OUT_OF_RANGE", "temperature"),
    ({**HELLO, "temperature": "hot"}, "FIELD_INVALID", "temperature"),
    ({**HELLO, "top_p": 0}, "OUT_OF_RANGE", "top_p"),
    ({**HELLO, "seed": 2**64}, "OUT_OF_RANGE", "seed"),
    ({**HELLO, "top_p": 1.1}, "OUT_OF_RANGE", "top_p"),
    ({**HELLO, "top_k": -1}, "OUT_OF_RANGE", "top_k"),
    ({**HELLO, "top_k": 0.5}, "FIELD_INVALID", "top_k"),
    ({**HELLO, "min_p": 1.1}, "OUT_OF_RANGE", "min_p"),
    ({**HELLO, "typical_p": 0}, "OUT_OF_RANGE", "typical_p"),
    ({**HELLO, "exact": 1}, "FIELD_INVALID", "exact"),
    ({**HELLO, "stop": ["a"] * 100}, "FIELD_INVALID", "stop"),
    ({**HELLO, "stop": ["a"] * 5}, "FIELD_INVALID", "stop"),
    ({**HELLO, "stop": ""}, "FIELD_INVALID", "stop"),
    ({**HELLO, "stop": [1]}, "FIELD_INVALID", "stop[0]"),
    ({**HELLO, "stream": "yes"}, "FIELD_INVALID", "stream"),
    ({**HELLO, "stream": True, "stream_options": 1}, "FIELD_INVALID", "stream_options"),
    ({**HELLO, "n": 0}, "OUT_OF_RANGE", "n"),
    ({**HELLO, "n": 1000}, "OUT_OF_RANGE", "n"),
    ({**HELLO, "response_format": "json"}, "FIELD_INVALID", "response_format"),
    ({**HELLO, "response_format": {"type": "xml"}}, "FIELD_INVALID", "response_format.type"),
    ({**HELLO, "response_format": {"type": "json_object", "x": 1}}, "FIELD_INVALID", "response_format.x"),
    ({**HELLO, "response_format": {"type": "json_schema"}}, "FIELD_REQUIRED", "response_format.json_schema"),
    (
        {**HELLO, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 1}}},
        "FIELD_INVALID",
        "response_format.json_schema.schema",
    ),
    (
        {**HELLO, "response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
        "FIELD_INVALID",
        "response_format.json_schema.schema",
    ),
    ({**HELLO, "presence_penalty": 2.5}, "OUT_OF_RANGE", "presence_penalty"),
    ({**HELLO, "frequency_penalty": "much"}, "FIELD_INVALID", "frequency_penalty"),
    ({**HELLO, "repeat_penalty": 0}, "OUT_OF_RANGE", "repeat_penalty"),
    ({**HELLO, "logit_bias": [1]}, "FIELD_INVALID", "logit_bias"),
    ({**HELLO, "logit_bias": {"the": 1}}, "FIELD_INVALID", "logit_bias"),
    ({**HELLO, "logit_bias": {"-1": 1}}, "FIELD_INVALID", "logit_bias"),
    ({**HELLO, "logit_bias": {"5": 101}}, "FIELD_INVALID", "logit_bias"),
    ({**HELLO, "logit_bias": {str(one): 1 for one in range(301)}}, "FIELD_INVALID", "logit_bias"),
    ({**HELLO, "logprobs": 1}, "FIELD_INVALID", "logprobs"),
    ({**HELLO, "top_logprobs": 2}, "FIELD_INVALID", "top_logprobs"),
    ({**HELLO, "logprobs": True, "top_logprobs": 21}, "OUT_OF_RANGE", "top_logprobs"),
    ({**HELLO, "n": True}, "FIELD_INVALID", "n"),
    ({**HELLO, "echo": True}, "FIELD_INVALID", "echo"),
    ({**HELLO, "tempratur": 1}, "FIELD_INVALID", "tempratur"),
    ({**HELLO, "prompt": "x"}, "FIELD_INVALID", "prompt"),
    ({**HELLO, "stream_options": {"include_usage": True}}, "FIELD_INVALID", "stream_options"),
    ({**HELLO, "stream": True, "stream_options": {"usage": 1}}, "FIELD_INVALID", "stream_options.usage"),
    ({**HELLO, "stream": True, "stream_options": []}, "FIELD_INVALID", "stream_options"),
    (
        b'{"temperature": 1e999, "model": "demo", "messages": [{"role": "user", "content": "x"}]}',
        "OUT_OF_RANGE",
        "temperature",
    ),
    ({**HELLO, "temperature": 10**300}, "OUT_OF_RANGE", "temperature"),
    (b'{"seed": 1' + b"0" * 4_000 + b"}", "FIELD_REQUIRED", "messages"),
    (b'{"metadata": ' + b"[" * 40 + b"]" * 40 + b"}", "JSON_INVALID", None),
    (b'{"\\ud800": 1}', "FIELD_INVALID", "The name of a field"),
    ({**HELLO, "messages": [{"role": "robot", "content": "x"}]}, "FIELD_INVALID", "messages[0].role"),
    (
        {**HELLO, "messages": [{"role": "user", "content": "x", "name": "Ann"}]},
        "FIELD_INVALID",
        "messages[0].name",
    ),
]


@pytest.mark.parametrize(("body", "code", "param"), BAD_BODIES)
async def test_a_bad_body_is_refused_by_the_name_of_its_field(
    client: httpx2.AsyncClient, inference: ScriptedInference, body: Any, code: str, param: str | None
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await client.post(CHAT, content=content, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert error["type"] == "invalid_request_error"
    assert not inference.submissions


async def test_what_the_openai_client_sends_back_of_an_answer_is_taken(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    said = {"role": "assistant", "content": "Hello", "refusal": None, "annotations": [], "tool_calls": None}
    answer = await client.post(CHAT, json={**HELLO, "messages": [*HELLO["messages"], said]})
    assert answer.status_code == 200
    assert inference.submissions[0].messages == (
        ChatMessage("user", "Hello!"),
        ChatMessage("assistant", "Hello"),
    )


async def test_a_misspelt_field_is_told_with_the_nearest_one(client: httpx2.AsyncClient) -> None:
    answer = await client.post(CHAT, json={**HELLO, "temprature": 1})
    assert "did you mean temperature?" in answer.json()["error"]["message"]


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(sorted(KNOWN)), inner),
).map(lambda value: json.dumps({**HELLO, **value} if isinstance(value, dict) else value).encode()))  # fmt: skip
def test_whatever_comes_is_a_submission_or_an_error_that_can_be_sent(body: bytes) -> None:
    for parse in (parse_chat, parse_completion):
        try:
            assert isinstance(parse(body, {}), Parsed)
        except TetherError as error:
            assert error.code.status == 400
            json.loads(error_bytes(error))


async def test_an_idempotency_key_out_of_bounds_is_refused(client: httpx2.AsyncClient) -> None:
    answer = await client.post(CHAT, json=HELLO, headers={"idempotency-key": "k" * 256})
    assert answer.json()["error"]["param"] == "Idempotency-Key"


def test_every_field_that_is_described_is_read() -> None:
    schemas = json.loads(OPENAPI)["components"]["schemas"]
    for name, parse, content in (
        ("ChatRequest", parse_chat, HELLO),
        ("CompletionRequest", parse_completion, {"model": "demo", "prompt": "x"}),
    ):
        nothing = dict.fromkeys(schemas[name]["properties"])
        assert parse(json.dumps({**nothing, **content}).encode(), {}).submissions[0].model == "demo"


def test_a_tenants_key_makes_the_request_its_tenants() -> None:
    key, key_id = make_key("acme", bytes(38))
    submission = parse_chat(json.dumps(HELLO).encode(), {"authorization": f"Bearer {key}"}).submissions[0]
    assert submission.tenant == "acme"
    assert submission.key is not None
    assert submission.key.key_id == key_id
    assert key not in repr(submission)


@pytest.mark.parametrize("header", ["", "Bearer sk-placeholder", "Basic tether_x", "Bearer"])
def test_what_is_no_key_of_ours_is_a_placeholder(header: str) -> None:
    submission = parse_chat(json.dumps(HELLO).encode(), {"authorization": header}).submissions[0]
    assert (submission.tenant, submission.key) == ("local", None)


async def test_a_key_that_is_not_whole_is_refused_at_once(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    headers = {"authorization": "Bearer tether_acme_0123"}
    answer = await client.post(CHAT, json=HELLO, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHENTICATED")
    assert inference.submissions == []
