"""What is told of a wait is what was measured, and nothing before there is enough of that."""

from __future__ import annotations

import pytest

from tetherd.orchestrator.flow import LEAST, MEMORY_S, Flow


def test_a_queue_that_moves_twice_a_second_takes_half_a_second_a_place() -> None:
    flow = Flow()
    for number in range(16):
        flow.moved("demo", number * 0.5)
    assert flow.wait_s("demo", 0, 8.0) == pytest.approx(0.5)
    assert flow.wait_s("demo", 9, 8.0) == pytest.approx(5.0)
    assert flow.wait_s("other", 0, 8.0) is None


def test_little_and_old_news_say_nothing() -> None:
    flow = Flow()
    for number in range(LEAST - 1):
        flow.moved("demo", float(number))
    assert flow.wait_s("demo", 0, 8.0) is None
    flow.moved("demo", 8.0)
    assert flow.wait_s("demo", 0, 9.0) is not None
    assert flow.wait_s("demo", 0, 9.0 + MEMORY_S) is None
