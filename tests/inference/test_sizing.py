"""How much of a machine an engine takes."""

from __future__ import annotations

import pytest

from inference.gguf import GgufHeader
from inference.sizing import LlamaSettings, Sizes, size_engine

GIB = 1 << 30


def header(
    parameters: int = 7_000_000_000, context: int = 32_768, kv: int = 131_072, size: int = 4 * GIB
) -> GgufHeader:
    return GgufHeader("llama", context, 32_000, parameters, size, 300, 3, kv_bytes_per_token=kv)


@pytest.mark.parametrize(
    ("free_gib", "slots"),
    [(64, 16), (8, 4), (7, 3), (5.5, 1), (1, 1)],
)
def test_slots_are_as_many_as_half_of_the_memory_beside_the_weights_holds(
    free_gib: float, slots: int
) -> None:
    assert size_engine(header(), LlamaSettings(), cores=4, free_bytes=int(free_gib * GIB)).slots == slots


def test_what_the_owner_names_is_for_weights_and_slots_in_whole() -> None:
    limited = LlamaSettings(memory_bytes=5 * GIB)
    assert size_engine(header(), limited, cores=4, free_bytes=64 * GIB).slots == 2
    assert size_engine(header(), limited, cores=4, free_bytes=int(4.5 * GIB)).slots == 1


@pytest.mark.parametrize(("free_gib", "context"), [(20, 4_096), (64, 8_192), (500, 32_768)])
def test_memory_that_is_left_beside_all_slots_makes_them_longer(free_gib: int, context: int) -> None:
    sizes = size_engine(header(), LlamaSettings(), cores=4, free_bytes=free_gib * GIB)
    assert (sizes.slots, sizes.context_tokens) == (16, context)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (4, 3), (16, 15)])
def test_a_core_is_left_to_the_daemon_where_there_are_more_than_two(cores: int, threads: int) -> None:
    assert size_engine(header(), LlamaSettings(), cores=cores, free_bytes=64 * GIB).threads == threads


def test_a_small_model_runs_on_one_thread() -> None:
    small = header(parameters=2_000_000, context=1024, kv=3072, size=2 << 20)
    assert size_engine(small, LlamaSettings(), cores=16, free_bytes=GIB) == Sizes(
        16, 1024, 1, need_bytes=(2 << 20) + 16 * 1024 * 3072
    )


def test_the_owner_decides_but_not_beyond_the_models_context() -> None:
    chosen = LlamaSettings(slots=9, threads=3, context_tokens=1 << 20)
    assert size_engine(header(), chosen, cores=2, free_bytes=0) == Sizes(
        9, 32_768, 3, need_bytes=4 * GIB + 9 * 32_768 * 131_072
    )
