"""How much of a machine an engine takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.device import Device, Gpu
from inference.gguf import GgufHeader
from inference.sizing import (
    ALL_LAYERS,
    LEAST_CONTEXT_TOKENS,
    PROCESS_BYTES,
    LlamaSettings,
    Sizes,
    budget_for,
    least_bytes,
    share,
    size_engine,
)

GIB = 1 << 30
LOGITS = 256 * 32_000 * 4
BESIDE = PROCESS_BYTES + LOGITS
"""What an engine takes besides its weights and slots."""


def header(
    parameters: int = 7_000_000_000, context: int = 32_768, kv: int = 131_072, size: int = 4 * GIB
) -> GgufHeader:
    return GgufHeader("llama", context, 32_000, parameters, size, 300, 3, kv_bytes_per_token=kv, layers=32)


def machine(free_bytes: float, cores: int = 4, gpus: tuple[Gpu, ...] = ()) -> Device:
    return Device("a processor", (), cores, int(free_bytes), int(free_bytes), gpus)


@pytest.mark.parametrize(
    ("free_gib", "slots"),
    [(64, 16), (8, 4), (7, 3), (5.5, 1), (1, 1)],
)
def test_slots_are_as_many_as_half_of_the_memory_beside_the_weights_holds(
    free_gib: float, slots: int
) -> None:
    assert size_engine(header(), LlamaSettings(), machine(free_gib * GIB)).slots == slots


def test_what_the_owner_names_is_for_the_whole_process() -> None:
    limited = LlamaSettings(memory_bytes=5 * GIB + BESIDE)
    sizes = size_engine(header(), limited, machine(64 * GIB))
    assert (sizes.slots, sizes.need_bytes) == (2, 5 * GIB + BESIDE)
    assert size_engine(header(), limited, machine(4.5 * GIB + BESIDE)).slots == 1


@pytest.mark.parametrize(("free_gib", "context"), [(20, 4_096), (64, 8_192), (500, 32_768)])
def test_memory_that_is_left_beside_all_slots_makes_them_longer(free_gib: int, context: int) -> None:
    sizes = size_engine(header(), LlamaSettings(), machine(free_gib * GIB))
    assert (sizes.slots, sizes.context_tokens) == (16, context)


@pytest.mark.parametrize(("kv_mib", "context"), [(300, 2_048), (200, 1_024), (0, LEAST_CONTEXT_TOKENS)])
def test_where_not_even_one_slot_has_room_it_is_shorter(kv_mib: int, context: int) -> None:
    limited = LlamaSettings(memory_bytes=4 * GIB + BESIDE + (kv_mib << 20))
    sizes = size_engine(header(), limited, machine(64 * GIB))
    assert (sizes.slots, sizes.context_tokens) == (1, context)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (4, 3), (16, 15)])
def test_a_core_is_left_to_the_daemon_where_there_are_more_than_two(cores: int, threads: int) -> None:
    assert size_engine(header(), LlamaSettings(), machine(64 * GIB, cores)).threads == threads


def test_a_small_model_runs_on_one_thread() -> None:
    small = header(parameters=2_000_000, context=1024, kv=3072, size=2 << 20)
    need = BESIDE + (2 << 20) + 16 * 1024 * 3072
    assert size_engine(small, LlamaSettings(), machine(GIB, 16)) == Sizes(16, 1024, 1, need)


def test_the_owner_decides_but_not_beyond_the_models_context() -> None:
    chosen = LlamaSettings(slots=9, threads=3, context_tokens=1 << 20, gpu_layers=7)
    need = BESIDE + 4 * GIB + 9 * 32_768 * 131_072
    assert size_engine(header(), chosen, machine(0, 2)) == Sizes(9, 32_768, 3, need, gpu_layers=7)


@pytest.mark.parametrize(("free_gib", "layers"), [(80, ALL_LAYERS), (4, 23), (0, 0)])
def test_a_gpu_gets_the_layers_that_it_holds_with_their_part_of_the_slots(free_gib: int, layers: int) -> None:
    gpu = Gpu("NVIDIA H100", 80 * GIB, free_gib * GIB)
    settings = LlamaSettings(slots=1, context_tokens=4_096)
    found = size_engine(header(), settings, machine(64 * GIB, gpus=(gpu,)))
    assert found.gpu_layers == pytest.approx(layers, abs=1)


def test_a_lone_model_gets_the_whole_budget_and_half_of_what_is_free_is_left() -> None:
    least = [least_bytes(header())]
    assert budget_for(least, None, least[0] + 10 * GIB) == least[0] + 5 * GIB
    assert budget_for(least, 3 * GIB, 64 * GIB) == 3 * GIB
    assert share(least, least[0] + 5 * GIB) == [least[0] + 5 * GIB]


def test_models_that_fit_together_share_the_rest_and_others_are_sized_to_run_in_turn() -> None:
    assert share([2, 4], 10) == [4, 6]
    assert share([6, 8], 10) == [8, 9]
    assert share([6, 12], 10) == [8, 12]


@given(st.lists(st.integers(0, 100), max_size=6), st.integers(0, 300))
def test_shares_are_never_less_than_the_least_and_fit_together_where_they_can(
    least: list[int], budget: int
) -> None:
    shares = share(least, budget)
    assert all(given >= own for given, own in zip(shares, least, strict=True))
    assert all(given <= max(own, budget) for given, own in zip(shares, least, strict=True))
    if sum(least) <= budget:
        assert sum(shares) <= budget
