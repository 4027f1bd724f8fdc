"""The tests of llama.cpp's engine, run once more with torch behind the same seam, in its exact mode."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

from inference.llama import LlamaEngine
from inference.sizing import LlamaSettings
from inference.torch.engine import open_torch
from tests.inference import test_llama
from tests.inference.test_llama import (  # noqa: F401 pytest collects them here
    test_an_answer_ends_at_a_stop_string_at_its_length_or_by_itself,
    test_leaving_an_answer_frees_its_slot,
    test_seeds_give_different_answers_and_one_seed_the_same,
    test_the_text_of_a_resumed_answer_joins_what_was_shown_before_it,
)
from tests.inference.test_llama_sampling import (  # noqa: F401
    test_a_bias_forbids_a_token_and_a_penalty_thins_repetition,
    test_an_answer_keeps_to_its_schema,
    test_every_token_tells_how_likely_it_was_and_what_else_was_whoever_is_beside_it,
)


@pytest.fixture(autouse=True)
def _torch_behind_the_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path, settings: LlamaSettings) -> AbstractAsyncContextManager[LlamaEngine]:
        return open_torch(path, replace(settings, exact="on", threads=1, context_tokens=512))

    monkeypatch.setattr(test_llama, "open_llama", opened)
