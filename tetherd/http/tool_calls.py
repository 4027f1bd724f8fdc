"""Calls of tools in a model's text, piece by piece. Pure.

    words ──"<tool_call>"──────────────────> one JSON object ──"</tool_call>"──> words
      │───"[TOOL_CALLS]" or "<|python_tag|>"──> JSON to the end
      └─── nothing but "{" so far ──────────> JSON to the end, if it is calls of the tools there are

Words are shown as they come, but for what may be the beginning of a mark; a call is shown when it is whole. What looks
like a call and is none is shown as the text that it is: nothing that a model said is lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from inference.text import overlap
from p2p.content import ToolCall

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"
TO_THE_END: Final = ("[TOOL_CALLS]", "<|python_tag|>")
ID_CHARS: Final = 24

_MARKS: Final = (OPEN, *TO_THE_END)


@dataclass(slots=True)
class ToolCalls:
    """Reads one answer. job: makes the calls' ids, the same for the same answer. forced: the text is one call."""

    names: Collection[str]
    job: bytes
    forced: bool = False
    at_most: int | None = None
    seen: int = 0
    _held: str = ""
    _inside: str = ""
    _spoke: bool = False
    _called: bool = False

    def __post_init__(self) -> None:
        if self.forced:
            self._inside = "{"

    def feed(self, text: str) -> list[str | ToolCall]:
        """What may be shown now."""
        self._held += text
        shown: list[str | ToolCall] = []
        while (piece := self._next()) is not None:
            shown += piece
        return shown

    def close(self) -> list[str | ToolCall]:
        """The answer ends here."""
        held, self._held = self._held, ""
        if not self._inside:
            return self._words(held)
        opened = "" if self._inside == "{" else self._inside
        return self._calls(held) or self._words(opened + held)

    def _next(self) -> list[str | ToolCall] | None:
        if self._inside == OPEN:
            body, closed, rest = self._held.partition(CLOSE)
            if not closed:
                return None
            self._inside, self._held = "", rest
            return self._calls(body) or self._words(f"{OPEN}{body}{CLOSE}")
        if self._inside or not (self._held if self._spoke else self._held.strip()):
            return None
        if not self._spoke and self._held.lstrip().startswith("{"):
            self._inside = "{"
            return None
        found = [(at, mark) for mark in _MARKS if (at := self._held.find(mark)) >= 0]
        if found:
            at, self._inside = min(found)
            before, self._held = self._held[:at], self._held[at + len(self._inside) :]
            return self._words(before)
        shown = len(self._held) - max(overlap(self._held, mark) for mark in _MARKS)
        words = self._held[:shown]
        if not (words if self._spoke else words.strip()):
            return None
        self._held = self._held[shown:]
        return self._words(words)

    def _words(self, text: str) -> list[str | ToolCall]:
        """Space that stands alone before a call, and any after one, is part of the form, not of the answer."""
        if self._called:
            text = text.lstrip()
        if not text or (self._inside and not self._spoke and not text.strip()):
            return []
        self._called = False
        self._spoke = self._spoke or bool(text.strip())
        return [text]

    def _calls(self, text: str) -> list[str | ToolCall]:
        """The calls in it: none if it is anything else."""
        found = _read_calls(text)
        if not found or any(name not in self.names for name, _ in found):
            return []
        room = len(found) if self.at_most is None else max(0, self.at_most - self.seen)
        calls: list[str | ToolCall] = []
        self._called = True
        for name, arguments in found[:room]:
            calls.append(ToolCall(self._id(), name, arguments))
            self.seen += 1
        return calls or [""]

    def _id(self) -> str:
        return "call_" + hashlib.sha256(self.job + self.seen.to_bytes(4, "big")).hexdigest()[:ID_CHARS]


def _read_calls(text: str) -> list[tuple[str, str]]:
    """Names and arguments of one call, of a list of them, or of several one after the other; else nothing."""
    calls: list[tuple[str, str]] = []
    for value in _values(text):
        for one in value if isinstance(value, list) else [value]:
            call = _call(one)
            if call is None:
                return []
            calls.append(call)
    return calls


def _call(value: Any) -> tuple[str, str] | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, dict):
        return None
    return value["name"], json.dumps(arguments, ensure_ascii=False)


def _values(text: str) -> Iterator[Any]:
    """JSON values with space or semicolons between them; one None for what is no JSON."""
    decoder, rest = json.JSONDecoder(parse_constant=_no_constant), text.strip("; \t\r\n")
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            yield None
            return
        yield value
        rest = rest[end:].strip("; \t\r\n")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
