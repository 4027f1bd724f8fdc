"""OpenAI's answers as bytes: whole, as server-sent events, and as errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from p2p.errors import TetherError
from tetherd.gateway.answer import Delta, End, ModelSummary, Started, Submission
from tetherd.http.logprobs import LogprobsField

Kind = Literal["chat", "text"]
DONE: Final = b"data: [DONE]\n\n"
WAITING: Final = b": waiting\n\n"
"""A comment: it keeps proxies from timing out, and clients skip it."""

_encode: Final = msgspec.json.Encoder().encode


class Choice:
    """One of the answers to a request, as far as it has come. echo: the prompt stands before its text."""

    def __init__(self, index: int, submission: Submission, *, echo: bool) -> None:
        self.index = index
        self.submission = submission
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
        started = self.started
        return {
            "x-tether-job": started.job.hex(),
            "x-tether-worker": started.worker,
            "x-tether-region": started.region,
        }

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


class Writer:
    """Writes one choice in the shape of its endpoint."""

    def __init__(self, page: Page, choice: Choice) -> None:
        self._page = page
        self._choice = choice
        self._chat = page.kind == "chat"
        self._logprobs = LogprobsField(chat=self._chat)

    def opening(self) -> bytes:
        """The first event: in a chat it names the role, in a completion it echoes the prompt if that was asked."""
        if self._chat:
            return self._page.event(self._delta({"role": "assistant", "content": ""}, None))
        return self._page.event(self._text(self._choice.before, None)) if self._choice.before else b""

    def piece(self, delta: Delta) -> bytes:
        """One event; none for ids without text, unless their probabilities were asked for."""
        if not delta.text and not delta.logprobs:
            return b""
        logprobs = self._logprobs.of(delta.logprobs)
        if self._chat:
            return self._page.event(self._delta({"content": delta.text}, None, logprobs))
        return self._page.event(self._text(delta.text, None, logprobs))

    def finish(self, extra: dict[str, Any] | None = None) -> bytes:
        """The last event of one choice: its finish reason."""
        end = self._choice.ended
        last = self._delta({}, end.finish) if self._chat else self._text("", end.finish)
        return self._page.event(last, extra)

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
            return self._text(choice.before + text, choice.ended.finish, logprobs)
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "index": self._choice.index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": choice.ended.finish,
        }

    def _delta(
        self, delta: dict[str, str], finish: str | None, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return {"index": self._choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def _text(self, text: str, finish: str | None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"index": self._choice.index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def usage_field(choices: Sequence[Choice]) -> dict[str, int]:
    """What was computed, for all choices together: each is a job of its own, its prompt included."""
    prompt = sum(choice.ended.usage.prompt_tokens for choice in choices)
    completion = sum(choice.ended.usage.completion_tokens for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


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


def error_body(error: TetherError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {
        "error": {
            "message": error.message,
            "type": _type(error),
            "param": error.field,
            "code": error.code.name,
        }
    }


def error_bytes(error: TetherError) -> bytes:
    return _encode(error_body(error))


def error_event(error: TetherError) -> bytes:
    """An error after the status went out: OpenAI's clients raise on it."""
    return b"data: " + error_bytes(error) + b"\n\n"


def models_bytes(models: Sequence[ModelSummary]) -> bytes:
    return _encode({"object": "list", "data": [model_field(model, models) for model in models]})


def model_bytes(model: ModelSummary, models: Sequence[ModelSummary]) -> bytes:
    return _encode(model_field(model, models))


def model_field(model: ModelSummary, models: Sequence[ModelSummary]) -> dict[str, Any]:
    """A model's id is its name, with the version where the name alone would not tell it from another of models."""
    alone = sum(other.name == model.name for other in models) == 1
    return {
        "id": model.name if alone else f"{model.name}@{model.version}",
        "object": "model",
        "created": model.created,
        "owned_by": "tether",
        "version": model.version,
        "digest": model.digest,
        "context_length": model.context_tokens,
        "workers": model.workers,
    }


def _type(error: TetherError) -> str:
    match error.code.status:
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case 404:
            return "not_found_error"
        case 429:
            return "rate_limit_error"
        case status if status < 500:
            return "invalid_request_error"
        case _:
            return "api_error"
