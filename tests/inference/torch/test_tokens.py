"""A folder's tokenizer on the way to llama.cpp's vocabulary: whatever is in its files, it is one or it is refused."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

from inference.forward import LoadError
from inference.torch.shape import from_config
from inference.torch.tokens import chat_template, read_json, vocabulary_of
from tests.inference.torch.small_models import LLAMA, QWEN, byte_tokenizer, write_folder

ODD = (None, -1, 10**9, 1.5, "x", [], {}, [1], {"a": 1}, True, [{"name": 1}], [{"name": "default"}])


def mutated(chance: random.Random, value: Any) -> Any:
    value = copy.deepcopy(value)
    node = value
    while node:
        key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if chance.random() < 0.4 or not isinstance(node[key], dict | list):
            node[key] = chance.choice(ODD)
            break
        node = node[key]
    return value


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_folder_is_understood_or_refused(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folder = write_folder(tmp_path / "model", LLAMA)
    names = ("config.json", "tokenizer.json", "tokenizer_config.json")
    whole = {name: json.loads((folder / name).read_text()) for name in names}
    for _ in range(100):
        name = chance.choice(names)
        changed = {one: mutated(chance, told) if one == name else told for one, told in whole.items()}
        for one, told in changed.items():
            (folder / one).write_text(json.dumps(told))
        for step in (
            lambda: vocabulary_of(folder, 266),
            lambda: from_config(read_json(folder / "config.json")),
        ):
            try:
                step()
            except LoadError:
                continue
        assert isinstance(chat_template(folder, read_json(folder / "tokenizer_config.json")), str)


def test_what_cuts_words_in_an_unknown_way_or_is_no_bpe_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", QWEN)
    for change, says in (
        ({"pre_tokenizer": {"type": "Whitespace"}}, "cuts words"),
        ({"model": {"type": "Unigram", "vocab": []}}, "only BPE"),
    ):
        (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer() | change))
        with pytest.raises(LoadError, match=says):
            vocabulary_of(folder, 266)


def test_the_known_ways_to_cut_words_have_llama_cpps_names(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", QWEN)
    for expression, name in (
        (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+", "llama-bpe"),
        (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+", "qwen2"),
    ):
        split = {"type": "Split", "pattern": {"Regex": expression}}
        told = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split]}}
        (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer() | told))
        assert vocabulary_of(folder, 266)["tokenizer.ggml.pre"] == name
