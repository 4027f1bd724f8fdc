"""How the commands print."""

from __future__ import annotations

import pytest

from cli import show
from p2p.errors import CONFIG_INVALID, NOT_RUNNING, TetherError


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.9, "59s"), (60, "1m 0s"), (3_725, "1h 2m"), (90_000, "1d 1h")],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert show.duration(seconds) == text


def test_tables_are_aligned_and_say_what_emptiness_means(capsys: pytest.CaptureFixture[str]) -> None:
    show.table([{"a": "x", "b": 1.25}, {"a": "long", "b": None}], {"a": "A", "b": "B"}, "none")
    show.table([], {"a": "A"}, "none")
    assert capsys.readouterr().out.splitlines() == ["A     B", "x     1.2", "long  -", "none"]


@pytest.mark.parametrize(("code", "status"), [(CONFIG_INVALID, 2), (NOT_RUNNING, 1)])
def test_a_failure_is_one_sentence_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], code: object, status: int
) -> None:
    error = TetherError(CONFIG_INVALID if status == 2 else NOT_RUNNING, "It is so.")
    with pytest.raises(SystemExit) as ended:
        show.fail(error)
    assert ended.value.code == status
    assert capsys.readouterr().err == f"error: It is so. {error.code.advice}\n"
