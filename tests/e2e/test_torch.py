"""A daemon that serves a folder of safetensors: the same text as llama.cpp gives from the equal GGUF."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

from cli.local_swarm import LocalNode, LocalSwarm, until
from tests.e2e.asking import client_of
from tests.e2e.test_models import work
from tests.inference.torch.small_models import QWEN, write_folder, write_gguf


def text_of(node: LocalNode, model: str) -> str:
    told = client_of(node).chat.completions.create(
        model=model, messages=[{"role": "user", "content": "the thing"}], temperature=0, max_tokens=24
    )
    return told.choices[0].message.content or ""


def test_safetensors_by_torch_answer_as_their_gguf_by_llama_cpp(swarm: LocalSwarm, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "small", QWEN)
    file = write_gguf(tmp_path / "same.gguf", folder, QWEN)
    founder = swarm.start("founder", models=[str(file)], extra=["--threads", "1"]).wait_ready()
    second = swarm.start(
        "second",
        ticket=swarm.invite(founder),
        models=[str(folder)],
        extra=["--engine", "torch", "--threads", "1", "--memory", "2"],
    ).wait_ready()
    expected = text_of(founder, "same")
    assert expected and text_of(second, "small") == expected


def test_a_published_folder_is_fetched_and_served(swarm: LocalSwarm, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "small", QWEN)
    founder = swarm.start("founder", roles="gateway,orchestrator").wait_ready()
    work(founder, "/publish", {"source": str(folder), "version": "1"})
    swarm.start(
        "worker", ticket=swarm.invite(founder), roles="worker", models=["small@1"], extra=["--memory", "2"]
    ).wait_ready()
    until(lambda: founder.control.get("/models"), "a worker of the model")
    assert text_of(founder, "small")
