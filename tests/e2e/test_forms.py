"""Answers in a form that the client asked for, through every hop."""

from __future__ import annotations

import json

from cli.local_swarm import LocalNode, LocalSwarm, until
from tests.e2e.asking import a_swarm, ask, stream

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
