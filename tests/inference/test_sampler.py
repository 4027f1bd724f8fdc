"""The seed of a position."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference.sampler import position_seed


@given(seed=st.integers(-(1 << 70), 1 << 70), position=st.integers(0, 1 << 40))
def test_any_seed_gives_one_that_llama_cpp_takes_for_a_seed(seed: int, position: int) -> None:
    assert 0 <= position_seed(seed, position) < 0xFFFF_FFFF


def test_positions_and_seeds_are_told_apart() -> None:
    assert len({position_seed(seed, position) for seed in range(50) for position in range(50)}) == 2_500


def test_the_seed_of_a_position_never_changes_between_versions() -> None:
    assert (position_seed(0, 0), position_seed(7, 3)) == (370795851, 4177962018)
    assert position_seed(1 << 64, 5) == position_seed(0, 5)
