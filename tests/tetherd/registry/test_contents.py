"""What may be published: a GGUF file, or a folder of safetensors, and never what runs code."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from inference.demo import MODEL_PATH
from p2p.errors import MODEL_INVALID, TetherError
from tests.tetherd.registry.test_replicas import open_region
from tetherd.registry.contents import INDEX, read_contents
from tetherd.registry.library import Library, Order
from tetherd.registry.local import ModelFolder

TENSOR = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
WEIGHTS = struct.pack("<Q", len(TENSOR)) + TENSOR + bytes(8)


def a_folder(root: Path) -> Path:
    folder = root / "Tiny-1.5"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 256, "model_type": "llama"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    for number in (1, 2):
        (folder / f"model-0000{number}-of-00002.safetensors").write_bytes(WEIGHTS)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / ".cache").mkdir()
    return folder


def test_a_folder_is_its_safe_files(tmp_path: Path) -> None:
    contents = read_contents(a_folder(tmp_path), "tiny")
    assert list(contents.files) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "tokenizer_config.json",
    ]
    assert (contents.engine, contents.context_tokens, len(contents.chat_template)) == ("torch", 256, 64)


def test_a_gguf_file_is_called_by_the_models_name(tmp_path: Path) -> None:
    assert list(read_contents(MODEL_PATH, "tiny").files) == ["tiny.gguf"]
    (tmp_path / "any.gguf").symlink_to(MODEL_PATH)
    assert list(read_contents(tmp_path, "tiny").files) == ["tiny.gguf"]


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("config.json", None, "no config.json"),
        ("config.json", b"[]", "cannot be used"),
        ("config.json", b'{"max_position_embeddings": 0}', "no context length"),
        ("tokenizer_config.json", b"{", "cannot be used"),
        ("model-00001-of-00002.safetensors", b"\x80\x04 a pickle", "cannot be used"),
        (INDEX, b'{"weight_map": {"w": "model-00003-of-00003.safetensors"}}', "lacks model-00003"),
        ("another.gguf", b"", "one GGUF file"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_in_a_sentence(
    tmp_path: Path, file: str, text: bytes | None, says: str
) -> None:
    folder = a_folder(tmp_path)
    (folder / file).unlink(missing_ok=True)
    if text is not None:
        (folder / file).write_bytes(text)
    with pytest.raises(TetherError, match=says) as refused:
        read_contents(folder, "tiny")
    assert refused.value.code is MODEL_INVALID


async def test_a_folder_is_published_and_fetched_as_one_model_whose_like_files_are_kept_once(
    tmp_path: Path,
) -> None:
    async with open_region(tmp_path / "nodes", 2) as nodes:
        (publisher, *_), (other, *_) = nodes
        assert isinstance(publisher, Library)
        folder = a_folder(tmp_path)
        published = await publisher.publish(Order(str(folder)))
        assert published.release.name == "tiny-1.5"
        steps: list[tuple[int, int]] = []
        fetched = await other.get("tiny-1.5", told=lambda step: steps.append((step.done, step.size)))
        assert isinstance(fetched, ModelFolder)
        assert sorted(one.name for one in fetched.path.iterdir()) == sorted(
            one.path for one in published.release.files
        )
        for one in fetched.path.iterdir():
            assert one.read_bytes() == (folder / one.name).read_bytes()
        assert len(other.blobs.kept()) == 3
        assert steps == sorted(steps) and {size for _, size in steps} == {published.release.size}
        assert await other.get("tiny-1.5") == fetched
