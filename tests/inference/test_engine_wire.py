"""The pipe between a daemon and its engine process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine_wire import (
    MAX_FRAME_BYTES,
    PREFIX,
    Cancel,
    Command,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Produced,
    Refused,
    Report,
    Tokenize,
    Tokenized,
    frame,
    frame_length,
    read_command,
    read_report,
)
from p2p.content import ChatMessage, Sampling
from p2p.errors import FRAME_INVALID, TetherError, WireError

COMMANDS: list[Command] = [
    Load("/models/a.gguf", 4, 512, 1, True, 20.0, "ab"),
    Tokenize(1, (ChatMessage("user", "é"),), None),
    Generate(2, (1, 2), (3,), 9, Sampling(temperature=0.5, stop=("x",))),
    Cancel(2),
]
REPORTS: list[Report] = [
    Loaded(512, "tag", True),
    LoadFailed("why"),
    Tokenized(1, (1, 2, 3)),
    Refused(1, WireError("FIELD_INVALID", "why")),
    Produced(2, (5,), 0, "a", "stop"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_comes_out_as_it_went_in(command: Command) -> None:
    sent = frame(command)
    assert frame_length(sent[: PREFIX.size]) == len(sent) - PREFIX.size
    assert read_command(sent[PREFIX.size :]) == command


@pytest.mark.parametrize("report", REPORTS)
def test_a_report_comes_out_as_it_went_in(report: Report) -> None:
    assert read_report(frame(report)[PREFIX.size :]) == report


def test_an_impossible_length_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(TetherError) as refused:
        frame_length(PREFIX.pack(MAX_FRAME_BYTES + 1))
    assert refused.value.code is FRAME_INVALID


@given(noise=st.binary(max_size=60))
def test_noise_is_read_or_refused_and_nothing_else(noise: bytes) -> None:
    for read in (read_command, read_report):
        try:
            read(noise)
        except TetherError as refused:
            assert refused.code is FRAME_INVALID
