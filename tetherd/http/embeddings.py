"""/v1/embeddings: OpenAI's body parsed strictly into a `Submission`, and its vectors as JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inference.embeddings import MAX_INPUTS
from p2p.errors import ENGINE_FAILED, TetherError
from tetherd.gateway.answer import Delta, End, Inference, Started, Submission
from tetherd.http.answering import Watch, error_response
from tetherd.http.fields import Fields, check_text, read_object
from tetherd.http.requests import LOCAL_TENANT, MAX_MODEL_CHARS, replay_key_of, shown_key
from tetherd.http.writer import headers_of
from tetherd.tenants.keys import KeyProof

MAX_DIMENSIONS: Final = 1 << 16
MAX_TOKEN: Final = (1 << 31) - 1

_encode: Final = msgspec.json.Encoder().encode


class EmbeddingRequest(msgspec.Struct, frozen=True):
    submission: Submission
    as_base64: bool


def parse_embedding(body: bytes, headers: Mapping[str, str]) -> EmbeddingRequest:
    """Read the body of /v1/embeddings. Raises TetherError naming the field."""
    fields = Fields(read_object(body))
    fields.only({"model", "input", "encoding_format", "dimensions", "user"})
    form = fields.raw("encoding_format") or "float"
    if form not in ("float", "base64"):
        fields.refuse("encoding_format", 'has to be "float" or "base64".')
    key = shown_key(headers)
    submission = Submission(
        tenant=key.tenant if isinstance(key, KeyProof) else LOCAL_TENANT,
        model=fields.text("model", at_most=MAX_MODEL_CHARS),
        max_tokens=1,
        idempotency_key=replay_key_of(headers),
        traceparent=headers.get("traceparent", "")[:128],
        key=key,
        embed=_inputs(fields),
        dimensions=fields.integer("dimensions", 1, MAX_DIMENSIONS),
    )
    return EmbeddingRequest(submission, form == "base64")


def _inputs(fields: Fields) -> tuple[str | tuple[int, ...], ...]:
    value = fields.required("input")
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        fields.refuse("input", "has to be a text, token ids, or a list of either.")
    if value and type(value[0]) is int:
        value = [value]
    if not 1 <= len(value) <= MAX_INPUTS:
        fields.refuse("input", f"has {len(value)} entries; it takes 1 to {MAX_INPUTS}.")
    return tuple(_input(fields, one, f"input[{index}]") for index, one in enumerate(value))


def _input(fields: Fields, value: Any, where: str) -> str | tuple[int, ...]:
    if isinstance(value, list):
        if not value or any(type(token) is not int or not 0 <= token <= MAX_TOKEN for token in value):
            fields.refuse(where, "has to be a list of token ids.")
        return tuple(value)
    text = check_text(value, where)
    if not text:
        fields.refuse(where, "is empty.")
    return text


class EmbeddingResponse(Response):
    """Submits the request and answers it whole; a client that leaves cancels it."""

    def __init__(self, inference: Inference, asked: EmbeddingRequest) -> None:
        super().__init__()
        self._inference = inference
        self._asked = asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            watch = Watch(nursery.cancel_scope)
            nursery.start_soon(watch.run, receive)
            answer = await self._answer()
            watch.end()
            await answer(scope, receive, send)
            nursery.cancel_scope.cancel()

    async def _answer(self) -> Response:
        vectors, end = list[bytes](), None
        try:
            async with self._inference.submit(self._asked.submission) as answer:
                async for item in answer:
                    if isinstance(item, Delta):
                        vectors += item.vectors
                    else:
                        end = item
                started = await answer.started()
            _check(vectors, len(self._asked.submission.embed))
        except TetherError as error:
            return error_response(error)
        assert end is not None, "an answer ends with its end"
        data = _body(started, end, [self._shown(vector) for vector in vectors])
        return Response(data, 200, headers_of(started), "application/json")

    def _shown(self, vector: bytes) -> str | list[float]:
        if self._asked.as_base64:
            return base64.b64encode(vector).decode()
        floats: list[float] = np.frombuffer(vector, "<f4").tolist()
        return floats


def _check(vectors: Sequence[bytes], due: int) -> None:
    """A worker's numbers are a stranger's: JSON has no NaN. Raises TetherError(ENGINE_FAILED)."""
    if len(vectors) != due or not all(np.isfinite(np.frombuffer(one, "<f4")).all() for one in vectors):
        raise TetherError(ENGINE_FAILED, "The worker made too few vectors, or such as are none.")


def _body(started: Started, end: End, shown: Sequence[str | list[float]]) -> bytes:
    prompt = end.usage.prompt_tokens
    return _encode(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(shown)
            ],
            "model": started.model,
            "usage": {"prompt_tokens": prompt, "total_tokens": prompt},
            "tether": {
                "job": started.job.hex(),
                "region": started.region,
                "attempts": len(end.attempts),
                "workers": [attempt.worker for attempt in end.attempts],
            },
        }
    )
