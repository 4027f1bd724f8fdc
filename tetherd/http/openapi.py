"""/openapi.json: what the shim takes and gives, as far as it goes, and no further."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from inference.tools import MAX_TOOLS
from tetherd import __version__
from tetherd.http.requests import (
    MAX_CHOICES,
    MAX_IDEMPOTENCY_KEY_CHARS,
    MAX_MODEL_CHARS,
    MAX_TOKENS,
)
from tetherd.http.sampling import MAX_BIASES, MAX_LOGPROBS, MAX_STOP_CHARS, MAX_STOPS

_Schema = dict[str, Any]


def _object(properties: _Schema, *required: str) -> _Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: _Schema, description: str) -> _Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_STOP: Final[_Schema] = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS}
_SAMPLING: Final[_Schema] = {
    "model": {"type": "string", "maxLength": MAX_MODEL_CHARS},
    "stream": {"type": "boolean", "default": False},
    "stream_options": _object({"include_usage": {"type": "boolean"}}),
    "max_tokens": {"type": "integer", "minimum": 1, "maximum": MAX_TOKENS},
    "max_completion_tokens": {"type": "integer", "minimum": 1, "maximum": MAX_TOKENS},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2, "default": 1},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 1},
    "top_k": {"type": "integer", "minimum": 0, "description": "0: all"},
    "min_p": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
    "typical_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 1},
    "repeat_penalty": {"type": "number", "exclusiveMinimum": 0, "maximum": 2, "default": 1},
    "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2, "default": 0},
    "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2, "default": 0},
    "logit_bias": {
        "type": "object",
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "maxProperties": MAX_BIASES,
    },
    "logprobs": {"description": "in a chat true or false, in a completion 0 to 5"},
    "top_logprobs": {"type": "integer", "minimum": 0, "maximum": MAX_LOGPROBS},
    "response_format": _object(
        {"type": {"enum": ["text", "json_object", "json_schema"]}, "json_schema": {"type": "object"}}, "type"
    ),
    "seed": {
        "type": "integer",
        "description": "the same seed gives the same text on the same build of a worker",
    },
    "exact": {
        "type": "boolean",
        "default": True,
        "description": "reproducible to the bit where the worker can; false: the faster way",
    },
    "stop": {"oneOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}]},
    "n": {"type": "integer", "minimum": 1, "maximum": MAX_CHOICES, "default": 1},
}
_PROMPT: Final[_Schema] = {
    "oneOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_CHOICES},
    ]
}
_MESSAGE: Final = _object(
    {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {
            "oneOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": _object({"type": {"const": "text"}, "text": {"type": "string"}}, "type", "text"),
                },
            ]
        },
        "tool_calls": {"type": "array", "items": {"type": "object"}},
        "tool_call_id": {"type": "string"},
    },
    "role",
)
_TOOL: Final = _object(
    {
        "type": {"const": "function"},
        "function": _object(
            {
                "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
                "description": {"type": "string"},
                "parameters": {"type": "object"},
                "strict": {"type": "boolean"},
            },
            "name",
        ),
    },
    "type",
    "function",
)
_TOOLS: Final[_Schema] = {
    "tools": {"type": "array", "items": _TOOL, "maxItems": MAX_TOOLS},
    "tool_choice": {"description": "auto, none, required, or a function by name"},
    "parallel_tool_calls": {"type": "boolean", "default": True},
}
_SCHEMAS: Final[_Schema] = {
    "ChatRequest": _object(
        {**_SAMPLING, **_TOOLS, "messages": {"type": "array", "items": _MESSAGE, "minItems": 1}},
        "model",
        "messages",
    ),
    "CompletionRequest": _object(
        {**_SAMPLING, "prompt": _PROMPT, "echo": {"type": "boolean", "default": False}}, "model", "prompt"
    ),
    "Answer": _object(
        {
            "id": {"type": "string"},
            "object": {"type": "string"},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": {"type": "object"}},
            "usage": {"type": "object"},
            "tether": _object(
                {
                    "job": {"type": "string"},
                    "region": {"type": "string"},
                    "attempts": {"type": "integer"},
                    "workers": {"type": "array", "items": {"type": "string"}},
                    "tokens": {"type": "array", "items": {"type": "integer"}},
                    "jobs": {"type": "array", "items": {"type": "string"}},
                }
            ),
        },
        "id",
        "choices",
    ),
    "Models": _object(
        {"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}}, "data"
    ),
    "Error": _object(
        {
            "error": _object(
                {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                },
                "message",
                "type",
                "code",
            )
        },
        "error",
    ),
}


def _infer(summary: str, request: str) -> _Schema:
    answer = _json(_ref("Answer"), "The answer; with stream, server-sent events that end with [DONE]")
    answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    header = {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "maxLength": MAX_IDEMPOTENCY_KEY_CHARS},
    }
    return {
        "post": {
            "summary": summary,
            "parameters": [header],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(request)}}},
            "responses": {"200": answer, "default": _json(_ref("Error"), "What went wrong and what to do")},
        }
    }


def _get(summary: str, answer: _Schema, *parameters: _Schema) -> _Schema:
    failure = _json(_ref("Error"), "What went wrong and what to do")
    return {
        "get": {
            "summary": summary,
            "parameters": list(parameters),
            "responses": {"200": answer, "default": failure},
        }
    }


_TEXT: Final[_Schema] = {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}
_MODEL: Final[_Schema] = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}

_EMBEDDINGS: Final[_Schema] = {
    "post": {
        "summary": "Make vectors of texts",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _object(
                        {
                            "model": {"type": "string", "maxLength": MAX_MODEL_CHARS},
                            "input": {"description": "a text, token ids, or up to 2,048 of either"},
                            "encoding_format": {"enum": ["float", "base64"], "default": "float"},
                            "dimensions": {"type": "integer", "description": "only the model's own number"},
                        },
                        "model",
                        "input",
                    )
                }
            },
        },
        "responses": {
            "200": _json({"type": "object"}, "The vectors, in the order of the inputs"),
            "default": _json(_ref("Error"), "What went wrong and what to do"),
        },
    }
}

OPENAPI: Final = msgspec.json.encode(
    {
        "openapi": "3.1.0",
        "info": {"title": "Tether", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": {
            "/v1/chat/completions": _infer("Answer a conversation", "ChatRequest"),
            "/v1/completions": _infer("Continue a text", "CompletionRequest"),
            "/v1/embeddings": _EMBEDDINGS,
            "/v1/models": _get("What the region serves", _json(_ref("Models"), "The models")),
            "/v1/models/{model}": _get("One model", _json({"type": "object"}, "The model"), _MODEL),
            "/healthz": _get("Whether the process lives", _TEXT),
            "/readyz": _get("Whether a request could be placed", _TEXT),
            "/metrics": _get("Prometheus metrics", _TEXT),
        },
        "components": {"schemas": _SCHEMAS},
    }
)
