"""Questions as a user's program asks them, and what came back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from openai import OpenAI

from cli.local_swarm import LocalNode, LocalSwarm, until

MODEL: Final = "tether-demo"
LONG: Final = "Count from 1 to 40."


@dataclass
class Streamed:
    """A streamed answer: its text, how many pieces it came in, and the final `tether` field."""

    text: str = ""
    pieces: int = 0
    finish: str = ""
    tether: dict[str, Any] = field(default_factory=dict)


def a_swarm(
    swarm: LocalSwarm, *, workers: int = 1, rate: float | None = None
) -> tuple[LocalNode, list[LocalNode]]:
    """A founder that serves clients but no model, and workers that know only its ticket."""
    founder = swarm.start("founder", roles="gateway,orchestrator").wait_ready()
    ticket = swarm.invite(founder)
    names = [f"worker{number}" for number in range(workers)]
    started = [swarm.start(name, ticket=ticket, roles="worker", rate=rate) for name in names]
    for worker in started:
        worker.wait_ready()
    wait_served(founder, workers)
    return founder, started


def client_of(node: LocalNode) -> OpenAI:
    """The openai client, as a user has it; retries off, so that a failure is seen."""
    return OpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0, timeout=60.0)


def stream(
    node: LocalNode, question: str = LONG, *, at: int = 0, do: Callable[[], None] | None = None, **extra: Any
) -> Streamed:
    """Stream a greedy answer; when `at` pieces of text have come, call `do` once."""
    answer = Streamed()
    chunks = client_of(node).chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        stream=True,
        temperature=0,
        **extra,
    )
    for chunk in chunks:
        answer.tether = (chunk.model_extra or {}).get("tether") or answer.tether
        for choice in chunk.choices:
            answer.finish = choice.finish_reason or answer.finish
            if choice.delta.content:
                answer.text += choice.delta.content
                answer.pieces += 1
                if do is not None and answer.pieces == at:
                    do()
    return answer


def ask(node: LocalNode, question: str = LONG, **extra: Any) -> str:
    """A greedy answer in one piece."""
    answer = client_of(node).chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], temperature=0, **extra
    )
    return answer.choices[0].message.content or ""


def wait_served(node: LocalNode, workers: int = 1) -> LocalNode:
    """Wait until the node knows that many workers of the model."""

    def enough() -> bool:
        return any(model["workers"] >= workers for model in node.control.get("/models"))

    until(enough, f"{workers} workers at {node.name}")
    return node


def load_of(observer: LocalNode, node: LocalNode) -> int:
    """The slots in use at node, as observer knows it."""
    return sum(seen["load"] for seen in observer.control.get("/nodes") if seen["nodeId"] == node.node_id)
