"""The shim over a scripted gateway: shapes, statuses, and every bad input with an answer that names it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import trio
from trio.testing import MockClock

from p2p.errors import CAPACITY, RESULT_GONE, WORKER_LOST, TetherError
from tests.tetherd.http.scripted import CHAT, HELLO, LIMIT, WORKER, ScriptedInference
from tetherd.gateway.answer import Delta, ModelSummary
from tetherd.http.app import HttpSettings, build_app


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
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
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


async def test_a_compressed_body_is_415(client: httpx2.AsyncClient) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert (await client.post(CHAT, content=b"{}", headers=headers)).status_code == 415


async def test_wrong_paths_and_methods_are_answered_in_openais_form(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/v2")).json()["error"]["code"] == "NOT_FOUND"
    wrong = await client.get(CHAT)
    assert (wrong.json()["error"]["code"], wrong.headers["allow"]) == ("METHOD_NOT_ALLOWED", "POST")


async def test_a_bug_is_answered_without_a_word_of_what_it_quoted(inference: ScriptedInference) -> None:
    def broken() -> bytes:
        raise ValueError("a canary that sings")

    app = build_app(inference, HttpSettings(LIMIT), broken)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "INTERNAL")
    assert "canary" not in answer.text


async def test_two_versions_of_a_model_have_ids_of_their_own(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    inference.served = [ModelSummary("demo", version, version * 64, 512, 1) for version in ("1", "2")]
    models = (await client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in models] == ["demo@1", "demo@2"]
    assert (await client.get("/v1/models/demo@2")).json()["version"] == "2"


async def test_a_refusal_before_acceptance_has_its_own_status_and_says_when_to_come_again(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    inference.refusal = TetherError(CAPACITY, "All slots are taken.", retry_after_s=1.2)
    for streamed in (False, True):
        answer = await client.post(CHAT, json={**HELLO, "stream": streamed})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.headers["x-should-retry"] == "true"


async def test_the_openai_client_is_told_not_to_repeat_what_stays_refused(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    inference.refusal = TetherError(RESULT_GONE, "It was given before.")
    answer = await client.post(CHAT, json=HELLO)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")


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
