"""A worker that fronts a server which somebody already runs: from the openai client through real daemons to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.local_swarm import LocalSwarm, until
from tests.e2e.asking import client_of
from tests.servers.embedding_model import DIMENSIONS, embedding_model
from tests.servers.openai_server import NAME, free_port, llama_cpp_server


def test_a_server_that_somebody_runs_is_waited_for_served_and_missed(swarm: LocalSwarm) -> None:
    port = free_port()
    founder = swarm.start("founder", roles="gateway,orchestrator").wait_ready()
    reference = f"openai:http://127.0.0.1:{port}/v1#{NAME}"
    worker = swarm.start("worker", ticket=swarm.invite(founder), roles="worker", models=[reference])
    client = client_of(founder)
    with llama_cpp_server(port):
        worker.wait_ready()
        served = until(lambda: founder.control.get("/models"), "the server's model")
        assert [(one["name"], one["version"]) for one in served] == [("org-demo-1", "text")]
        messages = [{"role": "user", "content": "Count from 1 to 5."}]
        whole = client.chat.completions.create(model="org-demo-1", messages=messages, temperature=0)
        text = whole.choices[0].message.content
        assert text and "3" in text and whole.usage.completion_tokens > 0
        stream = client.chat.completions.create(
            model="org-demo-1", messages=messages, temperature=0, stream=True
        )
        parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(parts) == text
    until(lambda: not founder.control.get("/models"), "word that the server is away", timeout_s=60)
    with llama_cpp_server(port):
        until(lambda: founder.control.get("/models"), "word that the server is back", timeout_s=60)
        again = client.chat.completions.create(model="org-demo-1", messages=messages, temperature=0)
        assert again.choices[0].message.content == text


def test_vectors_of_a_server_that_somebody_runs(swarm: LocalSwarm, tmp_path: Path) -> None:
    texts = ["Once upon a time", "What is Tether?"]
    with llama_cpp_server(embeds=embedding_model(tmp_path / "embedder.gguf")) as url:
        daemon = swarm.start("all", models=[f"openai-embeddings:{url}#{NAME}"]).wait_ready()
        client = client_of(daemon)
        until(lambda: daemon.control.get("/models"), "the server's model")
        [listed] = client.models.list().data
        assert listed.model_dump()["embedding_dimensions"] == DIMENSIONS
        made = client.embeddings.create(model="org-demo-1", input=texts)
        assert [len(one.embedding) for one in made.data] == [DIMENSIONS, DIMENSIONS]
        assert made.usage.prompt_tokens >= 2
        alone = client.embeddings.create(model="org-demo-1", input=texts[1])
        assert alone.data[0].embedding == pytest.approx(made.data[1].embedding, abs=1e-3)
