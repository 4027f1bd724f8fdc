"""What --model names, and what each kind of reference leads to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inference.demo import MODEL_NAME, MODEL_PATH
from p2p.errors import MODEL_INVALID, TetherError
from tetherd.registry.local import find_local, model_name, sort_references
from tetherd.registry.references import (
    BuiltIn,
    CatalogueEntry,
    HubFile,
    LocalFile,
    Reference,
    ServerModel,
    Url,
    parse,
)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("tether-demo", BuiltIn()),
        ("./a.gguf", LocalFile(Path("a.gguf"))),
        ("/models/b.gguf", LocalFile(Path("/models/b.gguf"))),
        ("hf:org/repo/dir/file.gguf", HubFile("org/repo", "dir/file.gguf")),
        ("https://host/x.gguf", Url("https://host/x.gguf")),
        ("s3://bucket/x.gguf", Url("s3://bucket/x.gguf")),
        ("openai:http://127.0.0.1:8000/v1/#Org/M:8b", ServerModel("http://127.0.0.1:8000/v1", "Org/M:8b")),
        ("openai-embeddings:http://h:1/v1#m", ServerModel("http://h:1/v1", "m", embeds=True)),
        ("llama3@8b-q8", CatalogueEntry("llama3", "8b-q8")),
        ("./llama3@8b-q8", LocalFile(Path("llama3@8b-q8"))),
    ],
)
def test_each_kind_of_reference_is_told_apart(text: str, reference: Reference) -> None:
    assert parse(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        "openai:http://h/v1",
        "openai-embeddings:http://h/v1",
        "openai:file:///v1#m",
        "openai:http://u:p@h/v1#m",
        "openai:http://h:x/v1#m",
        "hf:org/repo",
        "hf:",
        "",
        " ",
        "http://host/x.gguf",
        "ftp://x",
        "a\0b",
        "a\nb",
    ],
)
def test_a_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(TetherError) as caught:
        parse(text)
    assert caught.value.code is MODEL_INVALID


def test_nothing_named_is_the_built_in_model() -> None:
    here, elsewhere = sort_references(())
    [model] = find_local(here)
    assert (model.name, model.path, elsewhere) == (MODEL_NAME, MODEL_PATH, [])


def test_what_is_not_on_this_machine_is_to_be_fetched() -> None:
    fetched = ["hf:org/repo/file", "https://host/x.gguf", "llama3@8b"]
    assert sort_references([MODEL_NAME, *fetched]) == ([MODEL_NAME], fetched)


def test_a_file_is_called_by_its_name(tmp_path: Path) -> None:
    copy = tmp_path / "My Model (Q8).GGUF"
    copy.symlink_to(MODEL_PATH)
    assert [model.name for model in find_local([str(copy)])] == ["my-model-q8"]
    assert model_name(Path("a/B.c-d_E.gguf")) == "b.c-d_e"


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="Two models are called"):
        find_local([MODEL_NAME, MODEL_NAME])


def test_a_folder_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="is a folder"):
        find_local([str(tmp_path)])


def test_a_path_that_leads_to_no_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "circle.gguf").symlink_to(tmp_path / "circle.gguf")
    (tmp_path / "text.gguf").write_text("no model")
    for name in ("missing.gguf", "pipe.gguf", "circle.gguf", "text.gguf", "x" * 300, "text.gguf/x"):
        with pytest.raises(TetherError) as caught:
            find_local([str(tmp_path / name)])
        assert caught.value.code is MODEL_INVALID
        assert caught.value.field == "model"
    with pytest.raises(TetherError, match="~nobody-of-that-name"):
        find_local(["~nobody-of-that-name/x.gguf"])
