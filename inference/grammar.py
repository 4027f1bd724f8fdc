"""A JSON schema as a grammar that llama.cpp keeps an answer to. Only the engine process imports this.

llama.cpp aborts its process when it is made to accept a token that the grammar forbids, so every token is tried on a
list of its own first: the sampler sets what is forbidden to minus infinity.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Iterable
from typing import Any, Final

import llama_cpp as c
from llama_cpp.llama_grammar import json_schema_to_gbnf

from inference.json_schema import FIELD, check_schema
from inference.native import Candidates, Model
from p2p.errors import FIELD_INVALID, TetherError

MAX_GRAMMAR_BYTES: Final = 512 * 1024
"""What a schema may become; llama.cpp parses this in some ten milliseconds."""

_CONVERTER_FAULTS: Final = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What the converter raises for schemas that are none: it checks nothing by itself."""


class Grammar:
    """Where one answer stands in its schema. Raises TetherError(FIELD_INVALID) for a schema that makes no grammar."""

    def __init__(self, model: Model, schema: str) -> None:
        text = _gbnf(check_schema(schema)).encode()
        if len(text) > MAX_GRAMMAR_BYTES:
            raise TetherError(FIELD_INVALID, "The schema makes too large a grammar.", field=FIELD)
        self._sampler: Any = c.llama_sampler_init_grammar(model.vocabulary, text, b"root")
        if not self._sampler:
            raise TetherError(FIELD_INVALID, "llama.cpp cannot read the schema's grammar.", field=FIELD)

    def allows(self, token: int) -> bool:
        """Whether the token may come next; some ten microseconds."""
        one = Candidates.of((token,))
        self.restrict(one)
        return bool(one.rows["logit"][0] > float("-inf"))

    def restrict(self, candidates: Candidates) -> None:
        """Set what may not come next to minus infinity."""
        c.llama_sampler_apply(self._sampler, ctypes.byref(candidates.array))

    def accept(self, token: int) -> None:
        """Go on by a token that is allowed."""
        c.llama_sampler_accept(self._sampler, token)

    def resume(self, tokens: Iterable[int]) -> None:
        """Go on by what was emitted elsewhere. Raises TetherError(FIELD_INVALID) for what this schema forbids."""
        for token in tokens:
            if not self.allows(token):
                raise TetherError(FIELD_INVALID, "The resumed tokens break the schema.", field="resume")
            self.accept(token)

    def close(self) -> None:
        if self._sampler:
            c.llama_sampler_free(self._sampler)
            self._sampler = None


def _gbnf(schema: str) -> str:
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            grammar: str = json_schema_to_gbnf(schema)
    except _CONVERTER_FAULTS as error:
        raise TetherError(FIELD_INVALID, "The schema is not one that can be kept to.", field=FIELD) from error
    return grammar
