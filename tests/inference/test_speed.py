"""What is measured of a model that was just loaded, on a clock that the model itself moves."""

from __future__ import annotations

import pytest

from inference.forward import Logits, Rows
from inference.recipe import FAST_CHUNK
from inference.speed import LEAST_CHUNK, prefill_chunk, tokens_per_second


class Model:
    """A row takes so many seconds; how many it has had."""

    def __init__(self, row_s: float) -> None:
        self.row_s, self.now_s, self.rows, self.held = row_s, 0.0, 0, 0

    def decode(self, rows: Rows, *, exact: bool) -> None:
        assert not exact
        assert rows.positions == list(range(self.held, self.held + len(rows)))
        self.held += len(rows)
        self.rows += len(rows)
        self.now_s += self.row_s * len(rows)

    def abandon(self) -> None:
        raise AssertionError("nothing is given up")

    def logits(self, index: int) -> Logits:
        raise AssertionError("nobody draws")

    def best(self) -> list[int]:
        return [1]

    def keep(self, slot: int, tokens: int) -> None:
        assert (slot, tokens) == (0, 0)
        self.held = 0

    def copy(self, source: int, target: int) -> None:
        raise AssertionError("nothing is copied")

    def clock(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("row_ms", "chunk"),
    [(0.01, FAST_CHUNK), (0.39, FAST_CHUNK), (0.4, 128), (0.78, 128), (0.8, LEAST_CHUNK), (50, LEAST_CHUNK)],
)
def test_a_prompts_step_takes_a_tenth_of_a_second_where_the_model_is_fast_enough(
    row_ms: float, chunk: int
) -> None:
    model = Model(row_ms / 1e3)
    assert prefill_chunk(model, 100.0, 4096, model.clock) == chunk
    assert model.held == 0


@pytest.mark.parametrize(("speed", "context"), [(1.0, 4096), (100.0, LEAST_CHUNK - 1)])
def test_a_slow_model_and_a_short_context_are_not_tried(speed: float, context: int) -> None:
    model = Model(1.0)
    assert prefill_chunk(model, speed, context, model.clock) == LEAST_CHUNK
    assert model.rows == 0


def test_a_models_speed_is_that_of_one_answer_after_its_first_token() -> None:
    model = Model(0.01)
    assert tokens_per_second(model, model.clock) == pytest.approx(100.0)
    assert model.held == 0


def test_of_a_slow_model_one_token_is_enough() -> None:
    model = Model(2.0)
    assert tokens_per_second(model, model.clock) == pytest.approx(0.5)
    assert model.rows == 2
