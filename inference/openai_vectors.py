"""What is said to an OpenAI-compatible server about vectors, and what it says back. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from inference.engine import Input
from inference.openai_wire import Kind, Server
from p2p.errors import ENGINE_FAILED, FIELD_INVALID, TetherError

MAX_DIMENSIONS: Final = 16_384
PROBE: Final = Input("a", (0,))
"""What is embedded to learn how many dimensions a model has."""


_TEXTS_ONLY: Final[frozenset[Kind]] = frozenset({"llama-cpp-python", "ollama"})


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int | None = None


class _Vectors(msgspec.Struct):
    data: list[_Vector]


def check_inputs(server: Server, inputs: Sequence[str | tuple[int, ...]]) -> None:
    """Raises TetherError(FIELD_INVALID) for ids where the server takes none."""
    if server.kind in _TEXTS_ONLY and not all(isinstance(one, str) for one in inputs):
        detail = "This model is served by another server, which takes texts and no token ids."
        raise TetherError(FIELD_INVALID, detail, field="input")


def vectors_body(model: str, inputs: Sequence[Input]) -> dict[str, Any]:
    """Only what every server takes: base64 and dimensions are not for all."""
    return {"model": model, "input": [one.source for one in inputs], "encoding_format": "float"}


def read_vectors(body: bytes, count: int, dimensions: int = 0) -> tuple[bytes, ...]:
    """count vectors of length 1 in the order of their inputs, little-endian float32; dimensions 0: any number.

    Raises TetherError(ENGINE_FAILED) for anything else.
    """
    try:
        data = msgspec.json.decode(body, type=_Vectors).data
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TetherError(ENGINE_FAILED, "The server's vectors are none of OpenAI's.") from error
    said = {number if one.index is None else one.index: one.embedding for number, one in enumerate(data)}
    width = dimensions or (len(data[0].embedding) if data else 0)
    if len(data) != count or set(said) != set(range(count)) or not 0 < width <= MAX_DIMENSIONS:
        raise TetherError(
            ENGINE_FAILED, f"The server did not make the {count} vectors that it was asked for."
        )
    return tuple(_unit(said[number], width) for number in range(count))


def _unit(values: list[float], width: int) -> bytes:
    if len(values) != width:
        detail = f"The server made a vector of {len(values)} dimensions where the model has {width}."
        raise TetherError(ENGINE_FAILED, detail)
    length = math.hypot(*values)
    if not math.isfinite(length) or length == 0.0:
        raise TetherError(ENGINE_FAILED, "The server made a vector that is no direction.")
    return struct.pack(f"<{width}f", *(value / length for value in values))


def shares(total: int, sources: Sequence[str | tuple[int, ...]]) -> tuple[int, ...]:
    """Tokens of each input, at least 1: of ids their number; of texts what they have of a total, by their bytes."""
    sizes = [len(one.encode()) for one in sources if isinstance(one, str)]
    whole = max(1, sum(sizes))
    texts = iter(max(1, round(total * size / whole)) for size in sizes)
    return tuple(next(texts) if isinstance(one, str) else len(one) for one in sources)
