"""The shim over a scripted gateway: shapes, statuses, and every bad input with an answer that names it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import trio
from trio.testing import MockClock

from p2p.errors import CAPACITY, WORKER_LOST, TetherError
from p2p.messages import ChatMessage, Sampling
from tests.tetherd.http.scripted import WORKER, ScriptedInference
from tetherd.gateway.answer import Delta
from tetherd.http.app import HttpSettings, build_app

LIMIT = 4_096
CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture
def inference() -> ScriptedInference:
    return ScriptedInference()


@pytest.fixture
async def client(inference: ScriptedInference) -> AsyncIterator[httpx2.AsyncClient]:
    app = build_app(inference, HttpSettings(LIMIT), lambda: b"tether_up 1\n")
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:7575") as client:
        yield client


def events(answer: httpx2.Response) -> list[Any]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) if line != "[DONE]" else line for line in lines]


async def test_a_whole_answer_has_openais_shape_and_names_its_worker(client: httpx2.AsyncClient) -> None:
    answer = await client.post(CHAT, json=HELLO)
    body = answer.json()
    assert answer.status_code == 200
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert body["tether"] == {
        "job": "6a" * 32,
        "region": "eu",
        "attempts": 1,
        "workers": [WORKER],
        "tokens": [2],
    }
    assert answer.headers["x-tether-worker"] == WORKER
    assert answer.headers["x-tether-job"] == "6a" * 32
    assert answer.headers["x-tether-region"] == "eu"


async def test_a_stream_opens_with_the_role_and_ends_with_the_tether_field_and_done(
    client: httpx2.AsyncClient,
) -> None:
    answer = await client.post(CHAT, json={**HELLO, "stream": True})
    first, *pieces, last, done = events(answer)
    assert answer.headers["content-type"] == "text/event-stream"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [piece["choices"][0]["delta"]["content"] for piece in pieces] == ["Hel", "lo"]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["tether"]["workers"] == [WORKER]
    assert done == "[DONE]"
    assert {event["object"] for event in (first, *pieces, last)} == {"chat.completion.chunk"}


async def test_usage_comes_last_when_it_was_asked_for(client: httpx2.AsyncClient) -> None:
    answer = await client.post(
        CHAT, json={**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    )
    *_, finish, usage, _ = events(answer)
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 5)
    assert usage["tether"]["attempts"] == 1


async def test_a_completion_has_text_instead_of_messages(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    body = (await client.post("/v1/completions", json={"model": "demo", "prompt": ["Once"]})).json()
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", "Hello")
    assert inference.submissions[0].prompt == "Once"
    streamed = await client.post("/v1/completions", json={"model": "demo", "prompt": "Once", "stream": True})
    assert "".join(event["choices"][0]["text"] for event in events(streamed)[:-1]) == "Hello"


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
    ({**HELLO, "stop": ["a"] * 5}, "FIELD_INVALID", "stop"),
    ({**HELLO, "stop": ""}, "FIELD_INVALID", "stop"),
    ({**HELLO, "stop": [1]}, "FIELD_INVALID", "stop[0]"),
    ({**HELLO, "stream": "yes"}, "FIELD_INVALID", "stream"),
    ({**HELLO, "stream": True, "stream_options": 1}, "FIELD_INVALID", "stream_options"),
    ({**HELLO, "n": 2}, "FIELD_INVALID", "n"),
    ({**HELLO, "tools": [{"type": "function"}]}, "FIELD_INVALID", "tools"),
    ({**HELLO, "response_format": {"type": "json_object"}}, "FIELD_INVALID", "response_format"),
    ({**HELLO, "logprobs": True}, "FIELD_INVALID", "logprobs"),
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


async def test_an_unknown_model_is_404_and_lists_those_there_are(client: httpx2.AsyncClient) -> None:
    for streamed in (False, True):
        answer = await client.post(CHAT, json={**HELLO, "model": "gpt-4", "stream": streamed})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "MODEL_NOT_FOUND")
        assert "demo" in answer.json()["error"]["message"]
    assert (await client.get("/v1/models/gpt-4")).status_code == 404


async def test_a_body_over_the_limit_is_413_whether_it_says_its_length_or_not(
    client: httpx2.AsyncClient,
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * LIMIT

    headers = {"content-type": "application/json"}
    for content in (b"x" * (LIMIT + 1), parts()):
        answer = await client.post(CHAT, content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded"])
async def test_another_content_type_is_415(client: httpx2.AsyncClient, kind: str) -> None:
    answer = await client.post(CHAT, content=b"{}", headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "CONTENT_TYPE")


async def test_wrong_paths_and_methods_are_answered_in_openais_form(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/v2")).json()["error"]["code"] == "NOT_FOUND"
    assert (await client.get(CHAT)).json()["error"]["code"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"host": "127.0.0.1.evil.example"}, {"origin": "http://evil.example"}],
)
async def test_a_rebound_name_or_a_foreign_page_is_refused_on_every_path(
    client: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    for path in ("/healthz", "/v1/models", "/metrics", "/nowhere"):
        assert (await client.get(path, headers=headers)).status_code == 403


async def test_a_refusal_before_acceptance_has_its_own_status_and_says_when_to_come_again(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    inference.refusal = TetherError(CAPACITY, "All slots are taken.", retry_after_s=1.2)
    for streamed in (False, True):
        answer = await client.post(CHAT, json={**HELLO, "stream": streamed})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


async def test_a_failure_in_mid_stream_is_an_error_event(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    inference.script = (Delta("Hel", (1,)), TetherError(WORKER_LOST, "It is gone."))
    answer = await client.post(CHAT, json={**HELLO, "stream": True})
    assert answer.status_code == 200
    assert events(answer)[-1]["error"]["code"] == "WORKER_LOST"


async def test_a_slow_acceptance_goes_on_as_comments_and_then_as_a_stream(
    client: httpx2.AsyncClient, inference: ScriptedInference, autojump_clock: MockClock
) -> None:
    inference.accept_after = trio.Event()

    async def accept_late() -> None:
        await trio.sleep(25.0)
        assert inference.accept_after is not None
        inference.accept_after.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_late)
        answer = await client.post(CHAT, json={**HELLO, "stream": True})
    assert answer.text.startswith(": waiting\n\n")
    assert answer.text.count(": waiting") == 3
    assert "x-tether-worker" not in answer.headers
    assert events(answer)[-2]["tether"]["workers"] == [WORKER]


async def test_models_health_metrics_and_the_description_are_served(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    models = (await client.get("/v1/models")).json()
    assert [model["id"] for model in models["data"]] == ["demo"]
    assert (await client.get("/v1/models/demo@1")).json()["id"] == "demo"
    assert (await client.get("/healthz")).text == "ok\n"
    assert (await client.get("/readyz")).status_code == 200
    inference.is_ready = (False, "No orchestrator is known.")
    unready = await client.get("/readyz")
    assert (unready.status_code, unready.text) == (503, "No orchestrator is known.\n")
    assert (await client.get("/metrics")).text == "tether_up 1\n"
    assert CHAT in (await client.get("/openapi.json")).json()["paths"]
    assert "/v1/chat/completions" in (await client.get("/")).text


async def test_an_idempotency_key_out_of_bounds_is_refused(client: httpx2.AsyncClient) -> None:
    answer = await client.post(CHAT, json=HELLO, headers={"idempotency-key": "k" * 256})
    assert answer.json()["error"]["param"] == "Idempotency-Key"
