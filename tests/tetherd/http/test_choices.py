"""Several answers to one request: `n`, several prompts, and the prompt before its answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx2

from p2p.errors import CAPACITY, TetherError
from tests.tetherd.http.scripted import CHAT, HELLO, ScriptedInference
from tetherd.http.answering import AT_ONCE
from tetherd.http.requests import MAX_CHOICES

COMPLETIONS = "/v1/completions"


def events(answer: httpx2.Response) -> list[Any]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def texts(events: Sequence[Any], count: int) -> list[str]:
    pieces = [""] * count
    for event in events:
        for choice in event["choices"]:
            pieces[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return pieces


async def test_n_answers_are_n_jobs_with_seeds_of_their_own(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    answer = await client.post(CHAT, json={**HELLO, "n": 3, "seed": 7}, headers={"idempotency-key": "k"})
    body = answer.json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in body["choices"]] == ["Hello"] * 3
    assert body["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 6,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert (body["tether"]["attempts"], body["tether"]["jobs"]) == (3, ["6a" * 32] * 3)
    asked = sorted(inference.submissions, key=lambda one: one.sampling.seed)
    assert [one.sampling.seed for one in asked] == [7, 8, 9]
    assert [one.idempotency_key for one in asked] == ["k", "k#1", "k#2"]


async def test_a_stream_of_n_answers_says_which_each_piece_is_of(client: httpx2.AsyncClient) -> None:
    wanted = {**HELLO, "n": 3, "stream": True, "stream_options": {"include_usage": True}}
    answer = await client.post(CHAT, json=wanted)
    *told, last = events(answer)
    assert texts(told, 3) == ["Hello"] * 3
    finished = [choice["index"] for event in told for choice in event["choices"] if choice["finish_reason"]]
    assert sorted(finished) == [0, 1, 2]
    assert len({event["id"] for event in told}) == 1
    assert (last["choices"], last["usage"]["total_tokens"], last["tether"]["attempts"]) == ([], 15, 3)
    assert answer.text.count("[DONE]") == 1


async def test_a_stream_without_usage_tells_how_it_came_about_in_its_last_event(
    client: httpx2.AsyncClient,
) -> None:
    told = events(await client.post(CHAT, json={**HELLO, "n": 2, "stream": True}))
    assert ["tether" in event for event in told] == [False] * (len(told) - 1) + [True]


async def test_each_of_several_prompts_is_answered_n_times_in_their_order(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    asked = {"model": "demo", "prompt": ["One", "Two"], "n": 2, "echo": True}
    for body in (asked, {**asked, "stream": True}):
        answer = await client.post(COMPLETIONS, json=body)
        told = events(answer) or [answer.json()]
        assert texts(told, 4) == ["OneHello", "OneHello", "TwoHello", "TwoHello"]
    assert len(inference.submissions) == 8


async def test_answers_are_made_a_few_at_a_time(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    inference.refusal = TetherError(CAPACITY, "All slots are taken.", retry_after_s=1)
    answer = await client.post(CHAT, json={**HELLO, "n": MAX_CHOICES})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "CAPACITY")
    assert len(inference.submissions) <= AT_ONCE


async def test_one_that_fails_under_way_ends_the_stream_with_an_error(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    inference.script = [*inference.script[:1], TetherError(CAPACITY, "Gone.")]
    answer = await client.post(CHAT, json={**HELLO, "n": 2, "stream": True})
    assert answer.status_code == 200
    assert events(answer)[-1]["error"]["code"] == "CAPACITY"
    assert "[DONE]" not in answer.text
