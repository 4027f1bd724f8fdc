"""The REST shim's routes: OpenAI's endpoints over an `Inference`, and what operators and probes ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from p2p.errors import (
    BODY_TOO_LARGE,
    CANCELLED,
    CONTENT_TYPE,
    INTERNAL,
    METHOD_NOT_ALLOWED,
    MODEL_NOT_FOUND,
    NOT_FOUND,
    REQUEST_TOO_SLOW,
    TetherError,
)
from tetherd.gateway.answer import Inference
from tetherd.http import responses
from tetherd.http.answering import AnswerResponse, error_response
from tetherd.http.embeddings import EmbeddingResponse, parse_embedding
from tetherd.http.guard import Guard, GuardMiddleware
from tetherd.http.openapi import OPENAPI
from tetherd.http.requests import Parsed, parse_chat, parse_completion, shown_key
from tetherd.http.writer import Kind

BODY_WAIT_S: Final = 30.0
"""A whole body arrives in this time, or the client is too slow to serve."""

_JSON: Final = "application/json"
_WELCOME: Final = """Tether: a private, peer-to-peer AI inference network.
Point an OpenAI client at this address with /v1, any key will do.

  GET  /v1/models
  POST /v1/chat/completions
  POST /v1/completions
  POST /v1/embeddings
  GET  /healthz  /readyz  /metrics  /openapi.json
"""


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """max_body_bytes: of a request; hosts, origins: as in `Guard`."""

    max_body_bytes: int
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


def build_app(
    inference: Inference,
    settings: HttpSettings,
    metrics: Callable[[], bytes],
    admin: ASGIApp | None = None,
) -> Starlette:
    """The application. metrics: the text of /metrics; admin: what operators of other machines ask, by credential."""
    shim = _Shim(inference, settings, metrics)
    hosts = frozenset(host.lower() for host in settings.hosts)
    origins = frozenset(origin.lower().rstrip("/") for origin in settings.origins)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", shim.chat, methods=["POST"]),
            Route("/v1/completions", shim.completion, methods=["POST"]),
            Route("/v1/embeddings", shim.embedding, methods=["POST"]),
            Route("/v1/models", shim.models),
            Route("/v1/models/{model:path}", shim.model),
            Route("/healthz", shim.healthz),
            Route("/readyz", shim.readyz),
            Route("/metrics", shim.metrics),
            Route("/openapi.json", shim.openapi),
            Route("/", shim.welcome),
            *([Mount("/admin", app=admin)] if admin is not None else []),
        ],
        middleware=[Middleware(GuardMiddleware, guard=Guard(hosts, origins))],
        exception_handlers={
            TetherError: _answer_error,
            HTTPException: _answer_http,
            ClientDisconnect: _answer_gone,
            Exception: _answer_bug,
        },
    )


class _Shim:
    def __init__(self, inference: Inference, settings: HttpSettings, metrics: Callable[[], bytes]) -> None:
        self._inference = inference
        self._settings = settings
        self._metrics = metrics

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, "chat", parse_chat)

    async def completion(self, request: Request) -> Response:
        return await self._answer(request, "text", parse_completion)

    async def embedding(self, request: Request) -> Response:
        body = await _body(request, self._settings.max_body_bytes)
        return EmbeddingResponse(self._inference, parse_embedding(body, request.headers))

    async def models(self, request: Request) -> Response:
        served = await self._inference.models(shown_key(request.headers))
        return Response(responses.models_bytes(served), media_type=_JSON)

    async def model(self, request: Request) -> Response:
        served = await self._inference.models(shown_key(request.headers))
        wanted = request.path_params["model"]
        found = next(
            (model for model in served if wanted in (model.name, f"{model.name}@{model.version}")), None
        )
        if found is None:
            there = ", ".join(model.name for model in served) or "none"
            raise TetherError(
                MODEL_NOT_FOUND, f"There is no such model here; there are: {there}.", field="model"
            )
        return Response(responses.model_bytes(found, served), media_type=_JSON)

    async def healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, _request: Request) -> Response:
        ready, why = self._inference.ready()
        return PlainTextResponse("ready\n" if ready else f"{why}\n", 200 if ready else 503)

    async def metrics(self, _request: Request) -> Response:
        return Response(self._metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, _request: Request) -> Response:
        return Response(OPENAPI, media_type=_JSON)

    async def welcome(self, _request: Request) -> Response:
        return PlainTextResponse(_WELCOME)

    async def _answer(
        self, request: Request, kind: Kind, parse: Callable[[bytes, Mapping[str, str]], Parsed]
    ) -> Response:
        parsed = parse(await _body(request, self._settings.max_body_bytes), request.headers)
        return AnswerResponse(self._inference, kind, parsed)


async def _body(request: Request, max_bytes: int) -> bytes:
    """Read a JSON body within bounds of size and time. Raises TetherError(CONTENT_TYPE | BODY_TOO_LARGE | …)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _JSON:
        raise TetherError(
            CONTENT_TYPE, f"The content-type is {kind[:100] or 'missing'!r}.", field="content-type"
        )
    if encoding := request.headers.get("content-encoding"):
        raise TetherError(
            CONTENT_TYPE,
            f"The content-encoding {encoding[:100]!r} is not supported.",
            field="content-encoding",
        )
    length = request.headers.get("content-length", "0")
    too_large = TetherError(BODY_TOO_LARGE, f"The body is over the limit of {max_bytes} bytes.")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise too_large
    body = bytearray()
    with trio.move_on_after(BODY_WAIT_S) as patience:
        async for part in request.stream():
            body += part
            if len(body) > max_bytes:
                raise too_large
    if patience.cancelled_caught:
        raise TetherError(REQUEST_TOO_SLOW, f"The body did not arrive within {BODY_WAIT_S:.0f} s.")
    return bytes(body)


async def _answer_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, TetherError)
    return error_response(error)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 405:
        refusal = TetherError(METHOD_NOT_ALLOWED, f"{path} does not take {request.method[:20]}.")
        return error_response(refusal, dict(error.headers or {}))
    return error_response(TetherError(NOT_FOUND, f"There is nothing at {path}."))


async def _answer_gone(_request: Request, _error: Exception) -> Response:
    return error_response(TetherError(CANCELLED, "The client left before its request was whole."))


async def _answer_bug(_request: Request, _error: Exception) -> Response:
    """The server logs where it happened; what happened may quote the request, and stays here."""
    return error_response(TetherError(INTERNAL, "The shim failed on this request."))
