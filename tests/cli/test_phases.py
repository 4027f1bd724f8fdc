"""What a joining node shows: plain lines in a file, JSON for programs, a redrawn line on a terminal."""

from __future__ import annotations

import json

import pytest

from cli.phases import JsonPhases, PlainPhases, TerminalPhases


def test_plain_phases_are_one_line_each_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    phases = PlainPhases()
    phases.begin("eu")
    phases.progress("model", 0.5, "tether-demo")
    phases.reached("ready", "at http://127.0.0.1:1")
    assert capsys.readouterr().err == "tetherd: joining region eu\ntetherd: ready: at http://127.0.0.1:1\n"


def test_json_phases_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    phases = JsonPhases()
    phases.begin("eu")
    phases.progress("model", 1 / 3, "tether-demo")
    phases.reached("ready", "at home")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["phase", "progress", "phase"]
    assert lines[1]["fraction"] == 0.333


def test_on_a_terminal_a_phase_under_way_redraws_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    phases = TerminalPhases()
    phases.progress("model", 0.5, "tether-demo")
    phases.reached("model", "tether-demo")
    assert capsys.readouterr().err.count("\r\x1b[K") == 2
