"""One worker with two models and memory for one of them: real daemons, real engines."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2

from cli.local_swarm import LocalNode, LocalSwarm, until
from inference.demo import MODEL_PATH
from tests.e2e.asking import LONG, MODEL, client_of

ROOM_FOR_ONE_GB = "0.2"
"""Each takes some 105 MB with its shortest cache."""
SLOW = 5.0
"""Tokens a second: an answer lasts until it is left."""


def a_worker(swarm: LocalSwarm, rate: float | None = None) -> LocalNode:
    other = Path(shutil.copy(MODEL_PATH, swarm.root / "other.gguf"))
    models = [MODEL, str(other)]
    node = swarm.start("alone", models=models, rate=rate, extra=["--memory", ROOM_FOR_ONE_GB]).wait_ready()
    until(lambda: len(node.control.get("/models")) == 2, "both models to be known")
    return node


def answer(node: LocalNode, model: str) -> str:
    told = client_of(node).chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Count from 1 to 5."}], temperature=0
    )
    return told.choices[0].message.content or ""


@contextmanager
def lines(node: LocalNode, model: str, **more: object) -> Iterator[Iterator[str]]:
    """A streamed answer as it comes over the wire, comments and all; leaving it goes away."""
    asked = {"model": model, "messages": [{"role": "user", "content": LONG}], "stream": True, **more}
    url = f"{node.url}/v1/chat/completions"
    with httpx2.stream("POST", url, json=asked, timeout=60) as response:
        yield response.iter_lines()


def test_two_models_are_served_in_turn_where_there_is_memory_for_one(swarm: LocalSwarm) -> None:
    node = a_worker(swarm)
    assert node.metrics()['tether_engine_models{loaded="no"}'] == 1
    first = answer(node, MODEL)
    assert "3" in first
    assert answer(node, "other") == answer(node, MODEL) == first
    counts = node.metrics()
    assert counts['tether_engine_loads_total{outcome="loaded"}'] == 3
    assert counts["tether_engine_unloads_total"] == 2
    assert counts['tether_engine_memory_bytes{kind="used"}'] <= float(ROOM_FOR_ONE_GB) * 1e9
    until(lambda: sorted(one["loaded"] for one in node.control.get("/models")) == [0, 1], "the news of it")
    lends = node.control.get("/status")["lends"]
    assert sorted(engine["state"] for engine in lends["engines"]) == ["absent", "resident"]
    [shown] = node.control.get("/nodes")
    assert set(shown["models"]) == {f"{one['name']}@{one['version']}" for one in node.control.get("/models")}


def test_a_client_that_waits_for_a_model_hears_how_far_it_is(swarm: LocalSwarm) -> None:
    node = a_worker(swarm, SLOW)
    with lines(node, "other", max_tokens=4) as waiting:
        assert any(line.startswith("data:") for line in waiting)
    first = ExitStack()
    streaming = first.enter_context(lines(node, "other"))
    with first:
        assert any('"content"' in line for line in streaming)
        with lines(node, MODEL, max_tokens=4) as waiting:
            assert next(line for line in waiting if line.startswith(": loading")) == ": loading 0 %"
            first.close()
            data = [line for line in waiting if line.startswith("data:")]
    assert data[-1] == "data: [DONE]" and not any('"error"' in line for line in data)
