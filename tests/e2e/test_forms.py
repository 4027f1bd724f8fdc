"""Answers in a form that the client asked for, through every hop."""

from __future__ import annotations

import json

from cli.local_swarm import LocalNode, LocalSwarm, until
from tests.e2e.asking import MODEL, a_swarm, ask, client_of, stream

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "size": {"enum": ["small", "large"]}},
    "required": ["city", "size"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": SCHEMA}}


def test_an_answer_keeps_to_its_schema_also_when_its_worker_is_killed(swarm: LocalSwarm) -> None:
    founder, workers = a_swarm(swarm, workers=2, rate=8.0)
    undisturbed = ask(founder, "Hello!", response_format=FORM)
    told = json.loads(undisturbed)
    assert list(told) == ["city", "size"] and told["size"] in ("small", "large")
    by_id = {worker.node_id: worker for worker in workers}

    def busy() -> LocalNode | None:
        loads = {node["nodeId"]: node["load"] for node in founder.control.get("/nodes")}
        return next((worker for node_id, worker in by_id.items() if loads.get(node_id)), None)

    def kill() -> None:
        until(busy, "the answering worker to show its load").kill()

    disturbed = stream(founder, "Hello!", at=3, do=kill, response_format=FORM)
    assert disturbed.text == undisturbed
    assert disturbed.tether["attempts"] >= 2


def test_probabilities_reach_the_openai_client(swarm: LocalSwarm) -> None:
    founder, _ = a_swarm(swarm)
    answer = client_of(founder).chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Count from 1 to 5."}],
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    told = answer.choices[0].logprobs
    assert told is not None and told.content
    assert "".join(one.token for one in told.content).strip() == answer.choices[0].message.content
    assert all(one.token == one.top_logprobs[0].token and len(one.top_logprobs) == 3 for one in told.content)


def test_a_tool_that_has_to_be_called_is_called_by_its_schema(swarm: LocalSwarm) -> None:
    founder, _ = a_swarm(swarm)
    chat = client_of(founder).chat.completions
    tool = {"type": "function", "function": {"name": "place", "parameters": SCHEMA}}
    asked = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Where do you live?"}],
        "tools": [tool],
        "tool_choice": "required",
        "seed": 4,
    }
    choice = chat.create(**asked).choices[0]
    [call] = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content, call.function.name) == ("tool_calls", None, "place")
    assert json.loads(call.function.arguments)["size"] in ("small", "large")
    deltas = [event.choices[0].delta for event in chat.create(**asked, stream=True)]
    [streamed] = [one for delta in deltas for one in delta.tool_calls or []]
    assert streamed.function.arguments == call.function.arguments

    answered = {"role": "tool", "tool_call_id": call.id, "content": "Noted."}
    past = [*asked["messages"], choice.message.model_dump(exclude_none=True), answered]
    assert chat.create(model=MODEL, messages=past, tools=[tool], max_tokens=8).usage.prompt_tokens > 100


def test_several_answers_differ_by_their_seeds(swarm: LocalSwarm) -> None:
    founder, _ = a_swarm(swarm)
    answer = client_of(founder).chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Tell me a story."}], n=3, seed=1, temperature=1.5
    )
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert answer.usage.prompt_tokens % 3 == 0
