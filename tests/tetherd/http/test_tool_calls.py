"""Calls found in text: the same however it is cut, and no word lost or doubled."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content import ToolCall
from tetherd.http.tool_calls import CLOSE, OPEN, TO_THE_END, ToolCalls

NAMES = {"weather", "clock"}
JOB = b"j" * 32


def call(name: str, **arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def tagged(name: str, **arguments: object) -> str:
    return f"{OPEN}\n{call(name, **arguments)}\n{CLOSE}"


def read(*pieces: str, forced: bool = False, at_most: int | None = None) -> tuple[str, list[ToolCall]]:
    reader = ToolCalls(NAMES, JOB, forced, at_most)
    found = [one for piece in pieces for one in reader.feed(piece)] + reader.close()
    words = "".join(one for one in found if isinstance(one, str))
    return words, [one for one in found if isinstance(one, ToolCall)]


def names(calls: list[ToolCall]) -> list[str]:
    return [one.name for one in calls]


@pytest.mark.parametrize(
    ("text", "words", "called"),
    [
        ("Just words.", "Just words.", []),
        (tagged("clock"), "", ["clock"]),
        (f"\n{tagged('clock')}\n{tagged('weather', town='Ulm')}\n", "", ["clock", "weather"]),
        (f"Look: {tagged('clock')} Done.", "Look: Done.", ["clock"]),
        (f"[TOOL_CALLS] [{call('clock')}, {call('weather', town='Köln')}]", "", ["clock", "weather"]),
        (f"<|python_tag|>{call('clock')}; {call('clock')}", "", ["clock", "clock"]),
        ('{"name": "clock", "parameters": {"zone": "UTC"}}', "", ["clock"]),
        (f"  {call('clock')}", "", ["clock"]),
        ('{"name": "unknown", "parameters": {}}', '{"name": "unknown", "parameters": {}}', []),
        ('{"temperature": 20}', '{"temperature": 20}', []),
        (f"Here: {call('clock')}", f"Here: {call('clock')}", []),
        (f"{OPEN}no json{CLOSE} then", f"{OPEN}no json{CLOSE} then", []),
        (f"{OPEN}" + call("clock"), "", ["clock"]),
        (f"{OPEN}" + call("clock")[:-3], f"{OPEN}" + call("clock")[:-3], []),
        ("[TOOL_CALLS] sorry", "[TOOL_CALLS] sorry", []),
        (f'{OPEN}{{"name": "clock", "arguments": {{"x": NaN}}}}{CLOSE}',) * 2 + ([],),
        ("a < b and <tool", "a < b and <tool", []),
        ("", "", []),
        ("  ", "  ", []),
    ],
)
def test_calls_are_found_and_what_is_none_stays_text(text: str, words: str, called: list[str]) -> None:
    assert (read(text)[0], names(read(text)[1])) == (words, called)
    assert read(*text) == read(text)


def test_a_forced_call_is_the_whole_text() -> None:
    words, calls = read('{"name": "weather", ', '"arguments": {"town": "Ulm"}}', forced=True)
    assert (words, calls[0].arguments) == ("", '{"town": "Ulm"}')
    assert read('{"name": "wea', forced=True) == ('{"name": "wea', [])


def test_ids_are_the_same_for_the_same_answer_and_differ_within_it() -> None:
    twice = tagged("clock") + tagged("clock")
    _, calls = read(twice)
    assert len({one.id for one in calls}) == 2
    assert read(twice)[1] == calls


def test_no_more_calls_than_wanted() -> None:
    assert names(read(tagged("clock") + tagged("weather"), at_most=1)[1]) == ["clock"]


ATOMS = st.sampled_from([OPEN, CLOSE, *TO_THE_END, "{", "}", "[", " ", "\n", "words", "<", "tool_call"])
CALLS = st.sampled_from([call("clock"), call("weather", town="Ulm"), tagged("clock"), '{"name": 1}'])


@given(st.lists(ATOMS | CALLS | st.text(max_size=5), max_size=12), st.data())
def test_cuts_change_nothing_and_words_without_calls_are_all_shown(
    parts: list[str], data: st.DataObject
) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    words, calls = read(text)
    assert read(*pieces) == (words, calls)
    if not calls:
        assert words.split() == text.split()
