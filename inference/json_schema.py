"""What a client may ask of an answer's form: a JSON schema within bounds. Pure.

The schema comes from a stranger and becomes a grammar that llama.cpp walks for every token. So its size is bounded, and
so is how many ways there are to read one text by it: nested choices multiply, and each way is a stack of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from p2p.errors import FIELD_INVALID, TetherError

FIELD: Final = "response_format"
ANY_OBJECT: Final = '{"type":"object"}'
"""What json_object asks for."""
MAX_SCHEMA_BYTES: Final = 32 * 1024
"""OpenAI's own limits come to about this."""
MAX_DEPTH: Final = 48
"""Objects and lists together."""
MAX_NODES: Final = 1_000
MAX_REPEATS: Final = 1_000
"""Of minItems, maxItems, minLength, maxLength: a grammar spells them out."""
MAX_READINGS: Final = 256
"""Choices within choices, multiplied."""

_CHOICES: Final = ("anyOf", "oneOf", "type")
_NAMED: Final = ("properties", "$defs", "definitions")
"""Whose keys are the client's own names."""
_VALUES: Final = ("enum", "const", "default", "examples", "required")
_BOUNDS: Final = ("minItems", "maxItems", "minLength", "maxLength")
_REFUSED: Final = ("pattern", "patternProperties", "not", "if", "$dynamicRef", "$recursiveRef")
"""Not honoured by the grammar, or without a bound on what it costs: better refused than ignored."""


def check_schema(text: str) -> str:
    """Check a schema's JSON text. Returns it without spaces, keys in their order (answers follow it).

    Raises TetherError(FIELD_INVALID) that says what is wrong.
    """
    if len(text.encode("utf-8", "replace")) > MAX_SCHEMA_BYTES:
        raise _wrong(f"The schema is over {MAX_SCHEMA_BYTES} bytes.")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong("The schema is not JSON.") from error
    if not isinstance(schema, dict):
        raise _wrong("The schema has to be an object.")
    nodes = list(_schemas(schema))
    if len(nodes) > MAX_NODES:
        raise _wrong(f"The schema has over {MAX_NODES} parts.")
    for node in nodes:
        _check_node(node, schema)
    if _Readings(schema).of(schema) > MAX_READINGS:
        raise _wrong("The schema has too many choices within choices.")
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)


def _schemas(value: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """All schemas in it, itself first."""
    if depth > MAX_DEPTH:
        raise _wrong("The schema is nested too deep.")
    if isinstance(value, dict):
        yield value
    for one in _inner(value):
        yield from _schemas(one, depth + 1)


def _inner(value: Any) -> Iterator[Any]:
    """What schemas hang directly under a schema, or are in a list of them."""
    if isinstance(value, list):
        yield from value
    if not isinstance(value, dict):
        return
    for name, one in value.items():
        if name in _NAMED and isinstance(one, dict):
            yield from one.values()
        elif name not in _VALUES and isinstance(one, dict | list):
            yield one


def _check_node(node: Mapping[str, Any], root: Mapping[str, Any]) -> None:
    for name in _REFUSED:
        if name in node:
            raise _wrong(f"{name} is not supported in a schema.")
    for name in _BOUNDS:
        value = node.get(name, 0)
        if not isinstance(value, int) or not 0 <= value <= MAX_REPEATS:
            raise _wrong(f"{name} has to be a number up to {MAX_REPEATS}.")
    if "$ref" in node:
        _resolve(node["$ref"], root)


def _resolve(reference: Any, root: Mapping[str, Any]) -> Any:
    """Only into the schema itself: nothing is ever fetched."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        raise _wrong("A $ref has to point into the schema itself: #/$defs/name.")
    target: Any = root
    for part in reference[2:].split("/"):
        target = target.get(part) if isinstance(target, dict) else None
        if target is None:
            raise _wrong(f"The $ref {reference[:80]!r} points nowhere.")
    return target


class _Readings:
    """How many ways there are to begin to read a text by a schema: its choices times the most of what hangs under it.

    A node that is being counted counts as 1 in itself: a recursion reads a character each time.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known: dict[int, int] = {}

    def of(self, node: Any, depth: int = 0) -> int:
        if isinstance(node, list):
            return max((self.of(one, depth) for one in node), default=1)
        if not isinstance(node, dict):
            return 1
        if depth > MAX_DEPTH:
            raise _wrong("The schema is nested too deep.")
        if id(node) not in self._known:
            self._known[id(node)] = 1
            self._known[id(node)] = min(self._count(node, depth + 1), MAX_READINGS + 1)
        return self._known[id(node)]

    def _count(self, node: Mapping[str, Any], depth: int) -> int:
        if "$ref" in node:
            return self.of(_resolve(node["$ref"], self._root), depth)
        choices = [one for name in _CHOICES if isinstance(node.get(name), list) for one in node[name]]
        chosen = sum(self.of(one, depth) for one in choices)
        rest = {name: one for name, one in node.items() if name not in _CHOICES}
        return max(1, chosen) * max((self.of(one, depth) for one in _inner(rest)), default=1)


def _wrong(detail: str) -> TetherError:
    return TetherError(FIELD_INVALID, detail, field=FIELD)
