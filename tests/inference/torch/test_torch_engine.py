"""torch beside llama.cpp: the same tokens from the same weights, whichever file they came from."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import trio

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

import torch

from inference.engine import Generation, Prompt
from inference.forward import Rows
from inference.llama import LlamaEngine
from inference.sizing import LlamaSettings
from inference.torch.engine import open_torch
from p2p.content import Sampling
from p2p.errors import MODEL_INVALID, TetherError
from tests.inference.test_llama import ask
from tests.inference.torch.small_models import LLAMA, LONG, QWEN, Small, write_folder, write_gguf

SETTINGS = LlamaSettings(slots=4, threads=1, context_tokens=512, exact="off")
ANSWER = 64
FOREVER = Sampling(temperature=0, logit_bias=((265, -100.0),))
"""Greedy, and never the end: the tokens of the whole length are compared."""


def prompts() -> list[tuple[int, ...]]:
    chance = random.Random(4)
    return [tuple(chance.randrange(262) for _ in range(length)) for length in (1, 5, 40, 300)]


async def answers(engine: LlamaEngine) -> list[tuple[int, ...]]:
    return [(await ask(engine, prompt, FOREVER, max_tokens=ANSWER))[0] for prompt in prompts()]


def expected_of(file: Path) -> list[tuple[int, ...]]:
    """llama.cpp's own greedy answers in single precision throughout: our engine's cache is f16, which rounds."""
    llama = llama_cpp.Llama(
        str(file), n_ctx=512, n_threads=1, type_k=0, type_v=0, flash_attn=False, verbose=False
    )
    try:
        return [_greedy(llama, prompt) for prompt in prompts()]
    finally:
        llama.close()


def _greedy(llama: llama_cpp.Llama, prompt: tuple[int, ...]) -> tuple[int, ...]:
    llama.reset()
    ids, step = [], list(prompt)
    while len(ids) < ANSWER:
        llama.eval(step)
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), (266,)).copy()
        logits[265] = -np.inf
        step = [int(logits.argmax())]
        ids += step
    return tuple(ids)


@pytest.mark.parametrize("small", [LLAMA, QWEN, LONG], ids=["llama", "qwen2", "llama3"])
async def test_greedy_tokens_are_llama_cpps_from_the_gguf_and_from_the_folder(
    tmp_path: Path, small: Small
) -> None:
    folder = write_folder(tmp_path / "model", small)
    file = write_gguf(tmp_path / "model.gguf", folder, small)
    expected = expected_of(file)
    async with open_torch(file, SETTINGS) as from_gguf:
        assert await answers(from_gguf) == expected
    async with open_torch(folder, SETTINGS) as engine:
        assert await answers(engine) == expected
        together: dict[int, tuple[int, ...]] = {}

        async def keep(number: int, prompt: tuple[int, ...]) -> None:
            together[number] = (await ask(engine, prompt, FOREVER, max_tokens=ANSWER))[0]

        async with trio.open_nursery() as nursery:
            for number, prompt in enumerate(prompts()):
                nursery.start_soon(keep, number, prompt)
        assert [together[number] for number in range(len(expected))] == expected


async def test_a_folder_s_tokens_are_those_of_its_tokenizer(tmp_path: Path) -> None:
    theirs = pytest.importorskip("tokenizers", reason="the tokenizers package is not installed")
    folder = write_folder(tmp_path / "model", LLAMA)
    own = theirs.Tokenizer.from_file(str(folder / "tokenizer.json"))
    async with open_torch(folder, SETTINGS) as engine:
        for text in ("hello the thing: 12 mère", "  in other\n\nwords, 世界! 🦊", "<|user|>on<|end|>"):
            assert list(await engine.tokenize(Prompt(text=text))) == own.encode(text).ids


def test_slots_that_attend_together_are_to_a_rounding_what_they_are_alone(tmp_path: Path) -> None:
    from inference.torch.forward import TorchContext
    from inference.torch.shape import from_config
    from inference.torch.tokens import read_json
    from inference.torch.weights import load_folder

    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = write_folder(tmp_path / "model", LLAMA)
    shape = from_config(read_json(folder / "config.json"))
    weights = load_folder(folder, shape, dtype=torch.float32, device=device, told=lambda _: None)
    told = []
    for together in (False, True):
        context = TorchContext(weights, shape, slots=3, context_tokens=64, together=together)
        for slot, length in ((0, 3), (2, 40)):
            context.decode(Rows(list(range(length)), list(range(length)), [slot] * length), exact=False)
        context.copy(2, 1)
        context.decode(Rows([7, 8, 8], [3, 40, 40], [0, 1, 2], [0, 1, 2]), exact=False)
        told.append([context.logits(index).values() for index in range(3)])
    for alone, beside in zip(*told, strict=True):
        assert np.allclose(alone, beside, atol=1e-4)
    assert np.allclose(told[1][1], told[1][2], atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")
async def test_a_gpu_answers_in_bfloat16(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", LLAMA)
    async with open_torch(folder, replace(SETTINGS, gpu_layers=999)) as engine:
        assert engine.info.on_gpu
        assert [len(ids) for ids in await answers(engine)] == [ANSWER] * len(prompts())


async def test_a_beginning_that_was_computed_is_not_computed_again(tmp_path: Path) -> None:
    folder, prompt, cached = write_folder(tmp_path / "model", LLAMA), prompts()[3], []
    async with open_torch(folder, SETTINGS) as engine:
        ids = []
        for _ in range(2):
            async with engine.generate(Generation(prompt, 8, FOREVER, scope=b"one")) as answer:
                told = [tokens async for tokens in answer]
            ids.append([token for tokens in told for token in tokens.ids])
            cached.append(told[-1].cached)
    assert ids[0] == ids[1] and cached[0] == 0 and cached[1] >= 256


async def test_what_torch_cannot_compute_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", LLAMA)
    config = (folder / "config.json").read_text()
    for old, new, says in (
        ('"llama"', '"mamba"', "family 'mamba'"),
        ('"silu"', '"gelu"', "silu"),
        ('"num_hidden_layers": 3', '"num_hidden_layers": 4', "lacks the tensor"),
        ('"num_hidden_layers": 3', '"num_hidden_layers": 2', "which a Llama has not"),
        ('"intermediate_size": 160', '"intermediate_size": 161', "is wanted"),
        ('"hidden_size": 96', '"hidden_size": "many"', "no number"),
    ):
        (folder / "config.json").write_text(config.replace(old, new))
        with pytest.raises(TetherError, match=says) as refused:
            async with open_torch(folder, SETTINGS):
                raise AssertionError("it was loaded")
        assert refused.value.code is MODEL_INVALID


async def test_a_folder_without_safetensors_is_refused_and_a_pickle_in_it_is_not_looked_at(
    tmp_path: Path,
) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(TetherError, match="safetensors"):
        async with open_torch(tmp_path, SETTINGS):
            raise AssertionError("it was loaded")
