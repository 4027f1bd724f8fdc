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
