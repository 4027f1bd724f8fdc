"""`make demo`: a swarm of four daemons answers, loses a worker in the middle of a word, and goes on.

Nothing here is staged: the daemons are the ones that `tetherd join` starts, and the questions go through their shims.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from cli import show
from cli.control import post_stream
from cli.local_swarm import LocalNode, LocalSwarm, until
from p2p.errors import TetherError

QUESTION: Final = "What is Tether?"
LONG_QUESTION: Final = "Tell me a long story."
RATE: Final = 40.0
"""Tokens a second that each worker lends: the demo's model is so small that a kill would otherwise come too late."""
KILL_AFTER_TOKENS: Final = 30


class Stage:
    """Prints the demo: coloured on a terminal, plain text elsewhere."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty()
        self._began = time.monotonic()

    def scene(self, title: str) -> None:
        print(f"\n{self.paint('1;36', '▌ ' + title if self._colour else '== ' + title)}", flush=True)

    def line(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def command(self, text: str) -> None:
        print(f"  {self.paint('2', '$ ' + text)}", flush=True)

    def token(self, text: str, style: str = "0") -> None:
        print(self.paint(style, text), end="", flush=True)

    def end(self) -> None:
        print(
            f"\nThat took {time.monotonic() - self._began:.0f} s. Everything is stopped, nothing is left behind."
        )

    def paint(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour and text else text


def play(stage: Stage, swarm: LocalSwarm) -> None:
    """The five scenes."""
    founder, workers, other = _gather(stage, swarm)

    stage.scene("A question, through the founder's shim")
    stage.line(f"{stage.paint('1', 'you')}  {QUESTION}")
    outcome = _ask(stage, founder, QUESTION)
    stage.line(f"served by {_name(workers, outcome['workers'][-1])}, sealed from the founder to it")

    stage.scene("A worker dies in the middle of an answer")
    stage.line(f"{stage.paint('1', 'you')}  {LONG_QUESTION}")
    _ask_and_kill(stage, founder, workers)

    stage.scene("What the founder knows now")
    stage.command("tetherctl nodes")
    _nodes(stage, founder, {**workers, "founder": founder, "us": other})

    stage.scene("Another region answers for itself")
    stage.line(f"{stage.paint('1', 'you, in us')}  What is 2 + 3?")
    _ask(stage, other, "What is 2 + 3?")

    stage.scene("Good night")
    swarm.stop()
    stage.line("SIGTERM to all: each one drained and left.")


def main() -> int:
    stage = Stage()
    try:
        with LocalSwarm() as swarm:
            play(stage, swarm)
    except TetherError as error:
        show.fail(error)
    except KeyboardInterrupt:
        return 130
    stage.end()
    return 0


def _gather(stage: Stage, swarm: LocalSwarm) -> tuple[LocalNode, dict[str, LocalNode], LocalNode]:
    stage.scene("Four machines become a swarm")
    stage.command("tetherd join --region eu --roles gateway,orchestrator")
    founder = swarm.start("founder", roles="gateway,orchestrator")
    stage.line(f"founder    {show.short(founder.node_id)}  founded a swarm, answers at {_up(founder)}")
    stage.command("tetherctl invite --uses 3")
    ticket = swarm.invite(founder, uses=3)
    stage.line(f"{ticket[:40]}…  the ticket, all that the others get")
    stage.command(
        f"TETHER_TICKET=… tetherd join --region eu --roles worker --max-tokens-per-second {RATE:.0f}   (twice)"
    )
    workers = {
        name: swarm.start(name, ticket=ticket, roles="worker", rate=RATE)
        for name in ("worker one", "worker two")
    }
    stage.command("TETHER_TICKET=… tetherd join --region us")
    other = swarm.start("us", region="us", ticket=ticket)
    for name, node in {**workers, "us": other}.items():
        node.wait_ready()
        stage.line(
            f"{name.ljust(10)} {show.short(node.node_id)}  joined, ready in {_ready_after(node):.1f} s"
        )
    until(lambda: _served(founder) >= len(workers), "both workers to be known to the founder")
    return founder, workers, other


def _up(node: LocalNode) -> str:
    return str(node.wait_event("phase", phase="ready")["detail"]).removeprefix("at ")


def _ready_after(node: LocalNode) -> float:
    return node.seen_at("ready") - node.began


def _served(node: LocalNode) -> int:
    return max((model["workers"] for model in node.control.get("/models")), default=0)


def _stream(node: LocalNode, question: str) -> Iterator[dict[str, Any]]:
    body = {
        "model": "tether-demo",
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "temperature": 0,
    }
    with post_stream(node.url, "/v1/chat/completions", body) as events:
        yield from events


def _ask(stage: Stage, node: LocalNode, question: str) -> dict[str, Any]:
    outcome: dict[str, Any] = {}
    stage.token("  ")
    for event in _stream(node, question):
        outcome = event.get("tether") or outcome
        stage.token(_text(event))
    print()
    return outcome


def _ask_and_kill(stage: Stage, founder: LocalNode, workers: dict[str, LocalNode]) -> None:
    outcome: dict[str, Any] = {}
    pieces = 0
    victim = ""
    stage.token("  ")
    for event in _stream(founder, LONG_QUESTION):
        outcome = event.get("tether") or outcome
        text = _text(event)
        pieces += bool(text)
        stage.token(text, "33" if victim else "0")
        if pieces == KILL_AFTER_TOKENS and not victim:
            victim = _busy(founder, workers)
            workers[victim].kill()
            stage.token(f" ✂ kill -9 {victim} ✂ ", "1;31")
    print()
    used = [_name(workers, worker) for worker in outcome["workers"]]
    stage.line(
        f"attempts {outcome['attempts']}: begun by {used[0]}, finished by {used[-1]} from the next token on"
    )


def _busy(founder: LocalNode, workers: dict[str, LocalNode]) -> str:
    """The worker whose slot is taken: it is the one that answers."""

    def loaded() -> str:
        loads = {node["nodeId"]: node["load"] for node in founder.control.get("/nodes")}
        return next((name for name, node in workers.items() if loads.get(node.node_id)), "")

    return until(loaded, "the answering worker to report its load")


def _name(workers: dict[str, LocalNode], node_id: str) -> str:
    return next((name for name, node in workers.items() if node.node_id == node_id), show.short(node_id))


def _nodes(stage: Stage, founder: LocalNode, names: dict[str, LocalNode]) -> None:
    by_id = {node.node_id: name for name, node in names.items()}
    for node in founder.control.get("/nodes"):
        name = by_id.get(node["nodeId"], "?")
        state = stage.paint("32" if node["state"] == "alive" else "31", node["state"].ljust(8))
        stage.line(
            f"{name.ljust(10)} {show.short(node['nodeId'])}  {node['region']}  {state} {', '.join(node['roles'])}"
        )


def _text(event: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


if __name__ == "__main__":
    sys.exit(main())
