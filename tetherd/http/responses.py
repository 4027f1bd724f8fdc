"""OpenAI's errors and lists of models as bytes; answers are in tetherd/http/writer.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from p2p.errors import QUOTA_EXCEEDED, RATE_LIMITED, Code, TetherError
from tetherd.gateway.answer import Loading, ModelSummary, Queued

WAITING: Final = b": waiting\n\n"
"""A comment: it keeps proxies from timing out, and clients skip it."""


def wait_comment(wait: Queued | Loading) -> bytes:
    """What a request waits for."""
    if isinstance(wait, Queued):
        return b": queued %d\n\n" % wait.position
    return b": loading %d %%\n\n" % wait.percent


_OPENAI: Final[dict[Code, str]] = {
    RATE_LIMITED: "rate_limit_exceeded",
    QUOTA_EXCEEDED: "insufficient_quota",
}
"""Those by which clients of OpenAI decide what to do; the rest are the catalogue's own."""

_encode: Final = msgspec.json.Encoder().encode


def error_body(error: TetherError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {
        "error": {
            "message": error.message,
            "type": _type(error),
            "param": error.field,
            "code": _OPENAI.get(error.code, error.code.name),
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
        **({"embedding_dimensions": model.embeds} if model.embeds else {}),
    }


def _type(error: TetherError) -> str:
    if error.code is QUOTA_EXCEEDED:
        return "insufficient_quota"
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
