"""What an operator is told about a job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2p.errors import CALL_LOST, CANCELLED, CAPACITY, FIELD_INVALID, NOT_FOUND, Code, TetherError
from tests.tetherd.store.rows import attempt, job
from tetherd.orchestrator.shapes import advice, why_shape
from tetherd.store.protocol import JobRecord

RUNNING = job(attempts=(attempt(),))
LOST = replace(attempt(), end=105.0, cause="CALL_LOST")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (RUNNING, "Wait: it is under way."),
        (replace(RUNNING, cause="CAPACITY", attempts=(replace(LOST, cause="CAPACITY"),)), CAPACITY.advice),
        (replace(RUNNING, state="done"), "Nothing."),
        (
            replace(RUNNING, state="done", attempts=(LOST, attempt())),
            "Nothing: another worker went on. One attempt ended with CALL_LOST.",
        ),
        (replace(RUNNING, state="cancelled"), CANCELLED.advice),
        (replace(RUNNING, state="dead_lettered", cause="CALL_LOST"), CALL_LOST.advice),
        (
            replace(RUNNING, state="failed", cause="what a newer version says", attempts=(LOST,)),
            CALL_LOST.advice,
        ),
        (replace(RUNNING, state="failed", cause="?"), "See the log of the gateway that sent it."),
    ],
)
def test_every_outcome_comes_with_advice(row: JobRecord, said: str) -> None:
    assert advice(row) == said


@pytest.mark.parametrize(
    ("prefix", "found", "code"),
    [
        ("0101", [], NOT_FOUND),
        ("01", [job(1), job(2)], FIELD_INVALID),
        ("", [job(1)], FIELD_INVALID),
        ("xyz", [], FIELD_INVALID),
        ("0" * 65, [], FIELD_INVALID),
    ],
)
def test_a_beginning_that_names_no_job_or_several_is_refused(
    prefix: str, found: list[JobRecord], code: Code
) -> None:
    with pytest.raises(TetherError) as caught:
        why_shape(prefix, found)
    assert (caught.value.code, caught.value.field) == (code, "job")
