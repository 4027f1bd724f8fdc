"""OpenAI's answers as bytes: whole, as server-sent events, and as errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from p2p.content import Usage
from p2p.errors import TetherError
from tetherd.gateway.answer import Delta, End, ModelSummary, Started
from tetherd.http.logprobs import LogprobsField

Kind = Literal["chat", "text"]
DONE: Final = b"data: [DONE]\n\n"
WAITING: Final = b": waiting\n\n"
"""A comment: it keeps proxies from timing out, and clients skip it."""

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes one answer in the shape of its endpoint."""

    kind: Kind
    started: Started
    logprobs: LogprobsField

    @classmethod
    def of(cls, kind: Kind, started: Started) -> Writer:
        return cls(kind, started, LogprobsField(chat=kind == "chat"))

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

    def opening(self) -> bytes:
        """The first event: in a chat it names the role."""
        return (
            self._event(self._delta({"role": "assistant", "content": ""}, None))
            if self.kind == "chat"
            else b""
        )

    def piece(self, delta: Delta) -> bytes:
        """One event; none for ids without text, unless their probabilities were asked for."""
        if not delta.text and not delta.logprobs:
            return b""
        logprobs = self.logprobs.of(delta.logprobs)
        if self.kind == "chat":
            return self._event(self._delta({"content": delta.text}, None, logprobs))
        return self._event(self._text(delta.text, None, logprobs))

    def ending(self, end: End, *, include_usage: bool) -> bytes:
        """The last events: the finish reason, the usage if it was asked for, the `tether` field, [DONE]."""
        last = self._delta({}, end.finish) if self.kind == "chat" else self._text("", end.finish)
        tether = {"tether": tether_field(self.started, end)}
        if not include_usage:
            return self._event(last, tether) + DONE
        return self._event(last) + self._event(None, {"usage": usage_field(end.usage), **tether}) + DONE

    def whole(self, deltas: Sequence[Delta], end: End) -> bytes:
        """The answer in one piece."""
        text = "".join(delta.text for delta in deltas)
        logprobs = self.logprobs.of([one for delta in deltas for one in delta.logprobs])
        if self.kind == "chat":
            message = {"role": "assistant", "content": text, "refusal": None}
            choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": end.finish}
        else:
            choice = self._text(text, end.finish, logprobs)
        kind = "chat.completion" if self.kind == "chat" else "text_completion"
        extra = {"usage": usage_field(end.usage), "tether": tether_field(self.started, end)}
        return _encode({**self._frame(kind), "choices": [choice], **extra})

    def _event(self, choice: dict[str, Any] | None, extra: dict[str, Any] | None = None) -> bytes:
        kind = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        choices = [choice] if choice is not None else []
        return b"data: " + _encode({**self._frame(kind), "choices": choices, **(extra or {})}) + b"\n\n"

    def _frame(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": int(self.started.created),
            "model": self.started.model,
        }

    def _delta(
        self, delta: dict[str, str], finish: str | None, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def _text(self, text: str, finish: str | None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}


def usage_field(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def tether_field(started: Started, end: End) -> dict[str, Any]:
    """How the answer came about: one entry in workers and in tokens for each attempt."""
    return {
        "job": started.job.hex(),
        "region": started.region,
        "attempts": len(end.attempts),
        "workers": [attempt.worker for attempt in end.attempts],
        "tokens": [attempt.tokens for attempt in end.attempts],
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
