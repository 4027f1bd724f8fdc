"""Log-probabilities as OpenAI's clients read them, whole and in streams."""

from __future__ import annotations

import httpx2
import pytest

from p2p.content import TokenLogprob
from tests.tetherd.http.scripted import CHAT, END, HELLO, ScriptedInference
from tests.tetherd.http.test_shim import events
from tetherd.gateway.answer import Delta

HEL = TokenLogprob(b"Hel", -0.5, ((b"Hel", -0.5), (b"Ho", -1.5)))
HALF = TokenLogprob("é".encode()[:1], -2.0, ((b"x", -0.1),))
SCRIPT = (Delta("Hel", (1,), (HEL,)), Delta("", (2,), (HALF,)), END)


@pytest.fixture
def inference() -> ScriptedInference:
    return ScriptedInference(script=SCRIPT)


async def test_a_chat_tells_each_token_its_bytes_and_the_likeliest(client: httpx2.AsyncClient) -> None:
    body = {**HELLO, "logprobs": True, "top_logprobs": 2}
    choice = (await client.post(CHAT, json=body)).json()["choices"][0]
    first, half = choice["logprobs"]["content"]
    assert (first["token"], first["logprob"], first["bytes"]) == ("Hel", -0.5, list(b"Hel"))
    assert [(one["token"], one["logprob"]) for one in first["top_logprobs"]] == [("Hel", -0.5), ("Ho", -1.5)]
    assert (half["token"], half["bytes"]) == ("\ufffd", [0xC3])
    told = [
        event["choices"][0] for event in events(await client.post(CHAT, json={**body, "stream": True}))[:-1]
    ]
    streamed = [one for choice in told if choice["logprobs"] for one in choice["logprobs"]["content"]]
    assert streamed == [first, half]


async def test_a_completion_tells_parallel_lists_with_offsets_that_go_on(client: httpx2.AsyncClient) -> None:
    body = {"model": "demo", "prompt": "Once", "logprobs": 2}
    told = (await client.post("/v1/completions", json=body)).json()["choices"][0]["logprobs"]
    assert told == {
        "tokens": ["Hel", "\ufffd"],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"Hel": -0.5, "Ho": -1.5}, {"x": -0.1}],
        "text_offset": [0, 3],
    }
    streamed = events(await client.post("/v1/completions", json={**body, "stream": True}))[:-1]
    offsets = [event["choices"][0]["logprobs"] for event in streamed if event["choices"][0]["logprobs"]]
    assert [part["text_offset"] for part in offsets] == [[0], [3]]


async def test_top_logprobs_are_for_chats(client: httpx2.AsyncClient) -> None:
    body = {"model": "demo", "prompt": "Once", "logprobs": 2, "top_logprobs": 2}
    assert (await client.post("/v1/completions", json=body)).json()["error"]["param"] == "top_logprobs"
