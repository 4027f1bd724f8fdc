"""Tools in a request: what is taken, what is refused by name, and what the model is then kept to."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from inference.json_schema import check_schema
from inference.tools import MAX_TOOLS
from p2p.content import ChatMessage, Tool, ToolCall
from tests.tetherd.http.scripted import CHAT, HELLO, ScriptedInference
from tetherd.gateway.answer import Delta

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
TOOLS = {**HELLO, "tools": [WEATHER, CLOCK]}
NAMED = {"type": "function", "function": {"name": "clock"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
SAID = '<tool_call>\n{"name": "weather", "arguments": {"town": "Ulm"}}\n</tool_call>'


def events(answer: httpx2.Response) -> list[Any]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def says(inference: ScriptedInference, text: str, size: int = 3) -> None:
    pieces = [Delta(text[at : at + size]) for at in range(0, len(text), size)]
    inference.script = [*pieces, *inference.script[-1:]]


async def test_the_model_is_told_of_the_tools_and_free_to_call(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    assert (await client.post(CHAT, json=TOOLS)).status_code == 200
    [submission] = inference.submissions
    assert [tool.name for tool in submission.tools] == ["weather", "clock"]
    assert json.loads(submission.tools[0].parameters) == WEATHER["function"]["parameters"]
    assert submission.tools[1] == Tool("clock", "", '{"type": "object", "properties": {}}')
    assert submission.sampling.json_schema == ""


@pytest.mark.parametrize("choice", ["required", NAMED])
async def test_a_call_that_is_wanted_is_a_schema_to_keep_to(
    client: httpx2.AsyncClient, inference: ScriptedInference, choice: Any
) -> None:
    says(inference, '{"name": "clock", "arguments": {}}')
    for asked in ({**TOOLS, "tool_choice": choice}, {**TOOLS, "tool_choice": choice, "stream": True}):
        answer = await client.post(CHAT, json=asked)
        schema = inference.submissions[-1].sampling.json_schema
        assert check_schema(schema) == schema
        names = {"weather", "clock"} if choice == "required" else {"clock"}
        assert {name for name in ("weather", "clock") if f'"const":"{name}"' in schema} == names
        told = events(answer) or [answer.json()]
        assert told[-1]["choices"][0]["finish_reason"] == "tool_calls"
        assert '"name":"clock"' in answer.text.replace(" ", "")


async def test_none_means_that_the_model_sees_no_tools(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    says(inference, SAID)
    body = (await client.post(CHAT, json={**TOOLS, "tool_choice": "none"})).json()
    assert inference.submissions[0].tools == ()
    assert body["choices"][0]["message"]["content"] == SAID


async def test_calls_come_back_in_openais_form_whole_and_streamed(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    says(inference, f"Let me look. {SAID}\n{SAID}")
    choice = (await client.post(CHAT, json=TOOLS)).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me look."
    calls = choice["message"]["tool_calls"]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"town": "Ulm"}] * 2
    assert len({call["id"] for call in calls}) == 2

    told = events(await client.post(CHAT, json={**TOOLS, "stream": True}))
    deltas = [event["choices"][0]["delta"] for event in told]
    assert "".join(delta.get("content") or "" for delta in deltas).strip() == "Let me look."
    streamed = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert [call.pop("index") for call in streamed] == [0, 1]
    assert streamed == calls
    assert told[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_one_call_at_a_time_if_the_client_says_so(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    says(inference, SAID + SAID)
    body = (await client.post(CHAT, json={**TOOLS, "parallel_tool_calls": False})).json()
    assert len(body["choices"][0]["message"]["tool_calls"]) == 1


async def test_past_calls_and_their_results_reach_the_model(
    client: httpx2.AsyncClient, inference: ScriptedInference
) -> None:
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]
    assert (
        await client.post(CHAT, json={**TOOLS, "messages": [*HELLO["messages"], *turns]})
    ).status_code == 200
    assert inference.submissions[0].messages == (
        ChatMessage("user", "Hello!"),
        ChatMessage("assistant", "", (ToolCall("c1", "clock", "{}"),)),
        ChatMessage("tool", "noon", (), "c1"),
    )


def assistant(call: Any) -> dict[str, Any]:
    return {**TOOLS, "messages": [{"role": "assistant", "tool_calls": call}]}


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({**HELLO, "tools": "all"}, "FIELD_INVALID", "tools"),
        ({**HELLO, "tools": [1]}, "FIELD_INVALID", "tools[0]"),
        ({**HELLO, "tools": [{"type": "function"}]}, "FIELD_REQUIRED", "tools[0].function"),
        ({**HELLO, "tools": [{**CLOCK, "type": "magic"}]}, "FIELD_INVALID", "tools[0].type"),
        ({**HELLO, "tools": [{**CLOCK, "nmae": 1}]}, "FIELD_INVALID", "tools[0].nmae"),
        (
            {**HELLO, "tools": [{"type": "function", "function": {"name": "a b"}}]},
            "FIELD_INVALID",
            "tools[0].function.name",
        ),
        (
            {**HELLO, "tools": [{"type": "function", "function": {"name": "a", "parameters": 1}}]},
            "FIELD_INVALID",
            "tools[0].function.parameters",
        ),
        ({**HELLO, "tools": [CLOCK, CLOCK]}, "FIELD_INVALID", "tools"),
        ({**HELLO, "tools": [{}] * (MAX_TOOLS + 1)}, "FIELD_INVALID", "tools"),
        ({**HELLO, "tool_choice": "required"}, "FIELD_INVALID", "tool_choice"),
        ({**TOOLS, "tool_choice": "sometimes"}, "FIELD_INVALID", "tool_choice"),
        (
            {**TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}},
            "FIELD_INVALID",
            "tool_choice",
        ),
        ({**TOOLS, "tool_choice": {"type": "function"}}, "FIELD_REQUIRED", "tool_choice.function"),
        ({**TOOLS, "parallel_tool_calls": "no"}, "FIELD_INVALID", "parallel_tool_calls"),
        ({**TOOLS, "response_format": {"type": "json_object"}}, "FIELD_INVALID", "response_format"),
        (assistant([{}]), "FIELD_REQUIRED", "messages[0].tool_calls[0].function"),
        (
            assistant([{"id": "1", "function": {"name": "f", "arguments": "[]"}}]),
            "FIELD_INVALID",
            "messages[0].tool_calls[0].function.arguments",
        ),
        (assistant([{}] * 129), "FIELD_INVALID", "messages[0].tool_calls"),
        (
            {**HELLO, "messages": [{"role": "tool", "content": "x"}]},
            "FIELD_REQUIRED",
            "messages[0].tool_call_id",
        ),
        (
            {**HELLO, "messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
            "FIELD_INVALID",
            "messages[0].tool_calls",
        ),
    ],
)
async def test_what_is_wrong_is_named(
    client: httpx2.AsyncClient, inference: ScriptedInference, body: Any, code: str, field: str
) -> None:
    answer = await client.post(CHAT, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, field)
    assert inference.submissions == []


async def test_parameters_that_explode_are_refused_when_a_call_is_wanted(client: httpx2.AsyncClient) -> None:
    choices: dict[str, Any] = {"type": "string"}
    for _ in range(6):
        choices = {"type": ["object", "string", "number", "null"], "properties": {"a": choices}}
    tool = {"type": "function", "function": {"name": "f", "parameters": choices}}
    answer = await client.post(CHAT, json={**HELLO, "tools": [tool], "tool_choice": "required"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
