"""A daemon that serves a folder of safetensors: the same text as llama.cpp gives from the equal GGUF."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

from cli.local_swarm import LocalNode, LocalSwarm
from tests.e2e.asking import client_of
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
