"""One request's choices as bytes: OpenAI's chats and completions, whole and as server-sent events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from p2p.content import ToolCall
from tetherd.gateway.answer import Delta, End, Started, Submission, Told
from tetherd.http.logprobs import LogprobsField
from tetherd.http.rates import rate_headers
from tetherd.http.tool_calls import ToolCalls
from tetherd.http.tools import NO_TOOLS, Tools

Kind = Literal["chat", "text"]
DONE: Final = b"data: [DONE]\n\n"

_encode: Final = msgspec.json.Encoder().encode


class Choice:
    """One of the answers to a request, as far as it has come. echo: the prompt stands before its text.

    tools: which the model may call; its text is read for calls where there are any.
    """

    def __init__(self, index: int, submission: Submission, *, echo: bool, tools: Tools = NO_TOOLS) -> None:
        self.index = index
        self.tools = tools
        self.submission = submission
        self.told: Told | None = None
        self.started: Started | None = None
        self.end: End | None = None
        self.deltas: list[Delta] = []
        self.before = submission.prompt or "" if echo else ""

    @property
    def begun(self) -> Started:
        assert self.started is not None
        return self.started

    @property
    def ended(self) -> End:
        assert self.end is not None
        return self.end

    def take(self, item: Delta | End) -> None:
        """Keep what is answered in one piece."""
        if isinstance(item, Delta):
            self.deltas.append(item)
        self.count(item)

    def count(self, item: Delta | End) -> None:
        if isinstance(item, End):
            self.end = item


@dataclass(frozen=True, slots=True)
class Page:
    """What all events and choices of one answer share. started: of the choice that began first."""

    kind: Kind
    started: Started

    @property
    def id(self) -> str:
        return f"{'chatcmpl' if self.kind == 'chat' else 'cmpl'}-{self.started.job.hex()[:32]}"

    def headers(self) -> dict[str, str]:
        return headers_of(self.started)

    def frame(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": int(self.started.created),
            "model": self.started.model,
        }

    def event(self, choice: dict[str, Any] | None, extra: dict[str, Any] | None = None) -> bytes:
        kind = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        choices = [choice] if choice is not None else []
        return b"data: " + _encode({**self.frame(kind), "choices": choices, **(extra or {})}) + b"\n\n"

    def whole(self, choices: Sequence[Choice]) -> bytes:
        """The answer in one piece."""
        kind = "chat.completion" if self.kind == "chat" else "text_completion"
        body = {**self.frame(kind), "choices": [Writer(self, choice).whole() for choice in choices]}
        return _encode({**body, "usage": usage_field(choices), "tether": tether_field(choices)})


def headers_of(started: Started) -> dict[str, str]:
    """What every answer says of itself."""
    return {
        "x-tether-job": started.job.hex(),
        "x-tether-worker": started.worker,
        "x-tether-region": started.region,
        **rate_headers(started.rates),
    }


class Writer:
    """Writes one choice in the shape of its endpoint."""

    def __init__(self, page: Page, choice: Choice) -> None:
        self._page = page
        self._choice = choice
        self._chat = page.kind == "chat"
        self._logprobs = LogprobsField(chat=self._chat)
        self._told = 0
        tools = choice.tools
        names = {tool.name for tool in tools.told}
        self._calls = (
            ToolCalls(names, choice.begun.job, forced=bool(tools.must), at_most=tools.at_most)
            if names
            else None
        )

    def opening(self) -> bytes:
        """The first event: in a chat it names the role, in a completion it echoes the prompt if that was asked."""
        if self._chat:
            return self._page.event(self._delta({"role": "assistant", "content": ""}, None))
        return self._page.event(self._text(self._choice.before, None)) if self._choice.before else b""

    def piece(self, delta: Delta) -> bytes:
        """One event or more; none for ids without text, unless their probabilities were asked for."""
        logprobs = self._logprobs.of(delta.logprobs)
        if self._calls is not None:
            return self._pieces(self._calls.feed(delta.text), logprobs)
        if not delta.text and not logprobs:
            return b""
        if self._chat:
            return self._page.event(self._delta({"content": delta.text}, None, logprobs))
        return self._page.event(self._text(delta.text, None, logprobs))

    def finish(self, extra: dict[str, Any] | None = None) -> bytes:
        """The last events of one choice: what was held back, and its finish reason."""
        held = self._pieces(self._calls.close(), None) if self._calls else b""
        last = self._delta({}, self._finish) if self._chat else self._text("", self._finish)
        return held + self._page.event(last, extra)

    def ending(self, choices: Sequence[Choice], *, include_usage: bool) -> bytes:
        """The last events of all: a finish reason, the usage if it was asked for, the `tether` field, [DONE]."""
        tether = {"tether": tether_field(choices)}
        if not include_usage:
            return self.finish(tether) + DONE
        return self.finish() + self._page.event(None, {"usage": usage_field(choices), **tether}) + DONE

    def whole(self) -> dict[str, Any]:
        """The choice in one piece."""
        choice = self._choice
        text = "".join(delta.text for delta in choice.deltas)
        logprobs = self._logprobs.of([one for delta in choice.deltas for one in delta.logprobs])
        if not self._chat:
            return self._text(choice.before + text, self._finish, logprobs)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self._calls is not None:
            pieces = [*self._calls.feed(text), *self._calls.close()]
            calls = [piece for piece in pieces if isinstance(piece, ToolCall)]
            said = "".join(piece for piece in pieces if isinstance(piece, str))
            if calls:
                told = [_call_field(call) for call in calls]
                message |= {"content": said.strip() or None, "tool_calls": told}
        return {
            "index": choice.index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self._finish,
        }

    @property
    def _finish(self) -> str:
        finish = self._choice.ended.finish
        return "tool_calls" if finish == "stop" and self._calls and self._calls.seen else finish

    def _pieces(self, pieces: Sequence[str | ToolCall], logprobs: dict[str, Any] | None) -> bytes:
        """Words and calls; probabilities go with the first of them, or alone."""
        events: list[bytes] = []
        for piece in pieces or ([""] if logprobs else []):
            if isinstance(piece, ToolCall):
                delta: dict[str, Any] = {"tool_calls": [{"index": self._told, **_call_field(piece)}]}
                self._told += 1
            elif piece or logprobs:
                delta = {"content": piece}
            else:
                continue
            events.append(self._page.event(self._delta(delta, None, logprobs)))
            logprobs = None
        return b"".join(events)

    def _delta(
        self, delta: dict[str, Any], finish: str | None, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return {
            "index": self._choice.index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
        }

    def _text(self, text: str, finish: str | None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
        return {
            "index": self._choice.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish,
        }


def _call_field(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def usage_field(choices: Sequence[Choice]) -> dict[str, Any]:
    """What was computed, for all choices together: each is a job of its own, its prompt included."""
    prompt = sum(choice.ended.usage.prompt_tokens for choice in choices)
    completion = sum(choice.ended.usage.completion_tokens for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": sum(choice.ended.usage.cached_tokens for choice in choices)
        },
    }


def tether_field(choices: Sequence[Choice]) -> dict[str, Any]:
    """How the answer came about: one entry in workers and in tokens for each attempt, one in jobs for each choice."""
    attempts = [attempt for choice in choices for attempt in choice.ended.attempts]
    return {
        "job": choices[0].begun.job.hex(),
        "region": choices[0].begun.region,
        "attempts": len(attempts),
        "workers": [attempt.worker for attempt in attempts],
        "tokens": [attempt.tokens for attempt in attempts],
        **({"jobs": [choice.begun.job.hex() for choice in choices]} if len(choices) > 1 else {}),
    }
