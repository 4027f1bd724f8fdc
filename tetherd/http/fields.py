"""Reading a JSON object strictly: every refusal names the field, nothing is guessed, nothing is ignored by accident."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable
from typing import Any, Final, NoReturn

from p2p.errors import FIELD_INVALID, FIELD_REQUIRED, JSON_INVALID, OUT_OF_RANGE, TetherError

MAX_DEPTH: Final = 32
"""The deepest field that there is lies four levels down."""


def read_object(body: bytes) -> dict[str, Any]:
    """One JSON object in UTF-8. Raises TetherError(JSON_INVALID | FIELD_INVALID)."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TetherError(JSON_INVALID, "The body is not UTF-8.") from error
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise TetherError(JSON_INVALID, f"The body is not JSON ({where}: {error.msg}).") from error
    except RecursionError as error:
        raise TetherError(JSON_INVALID, "The body is nested too deep.") from error
    except ValueError as error:  # an integer of thousands of digits
        raise TetherError(JSON_INVALID, "The body holds a number that is too long.") from error
    if not isinstance(value, dict):
        raise TetherError(JSON_INVALID, "The body is not a JSON object.")
    _check_depth(value)
    return value


class Fields:
    """One object's fields, read by type. prefix: where the object stands, as in `messages[2].`."""

    def __init__(self, values: dict[str, Any], prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix

    def __contains__(self, name: str) -> bool:
        """Whether the field is there with a value: null counts as absent, as with OpenAI."""
        return self._values.get(name) is not None

    def raw(self, name: str) -> Any:
        return self._values.get(name)

    def required(self, name: str) -> Any:
        if name not in self:
            raise TetherError(FIELD_REQUIRED, f"{self._prefix}{name} is missing.", field=self._prefix + name)
        return self._values[name]

    def only(self, known: Collection[str]) -> None:
        """Refuse any other field: what is misspelt must not be ignored."""
        for name in self._values:
            if name not in known:
                near = difflib.get_close_matches(name[:100], known, n=1)
                hint = f"; did you mean {near[0]}?" if near else "."
                self.refuse(name[:100], f"is no field of this request{hint}")

    def text(self, name: str, *, at_most: int | None = None) -> str:
        return check_text(self.required(name), self._prefix + name, at_most=at_most)

    def flag(self, name: str) -> bool:
        value = self._values.get(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        self.refuse(name, "has to be true or false.")

    def number(self, name: str, default: float, low: float, high: float, *, above: bool = False) -> float:
        """A number in [low, high], or in (low, high] with above."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(name, "has to be a number.")
        if not (low < value if above else low <= value) or not value <= high:
            bracket = "above" if above else "between"
            self._range(name, f"has to be {bracket} {low:g} and {'at most ' if above else ''}{high:g}.")
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(name, "has to be a whole number.")
        if not low <= value <= high:
            self._range(name, f"has to be between {low} and {high}.")
        return value

    def inner(self, name: str) -> Fields:
        value = self._values.get(name)
        if value is not None and not isinstance(value, dict):
            self.refuse(name, "has to be an object.")
        return Fields(value or {}, f"{self._prefix}{name}.")

    def refuse(self, name: str, why: str) -> NoReturn:
        raise TetherError(FIELD_INVALID, f"{self._prefix}{name} {why}", field=self._prefix + name)

    def _range(self, name: str, why: str) -> NoReturn:
        raise TetherError(OUT_OF_RANGE, f"{self._prefix}{name} {why}", field=self._prefix + name)


def check_text(value: Any, field: str, *, at_most: int | None = None) -> str:
    """A string that has a UTF-8 form. Raises TetherError(FIELD_INVALID) naming field."""
    if not isinstance(value, str):
        raise TetherError(FIELD_INVALID, f"{field} has to be a string.", field=field)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise TetherError(
            FIELD_INVALID, f"{field} holds half a character (a lone surrogate).", field=field
        ) from error
    if at_most is not None and len(value) > at_most:
        raise TetherError(FIELD_INVALID, f"{field} is longer than {at_most} characters.", field=field)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return
    raise TetherError(JSON_INVALID, f"The body is nested deeper than {MAX_DEPTH} levels.")


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        check_text(name, "The name of a field")
        if name in values:
            raise TetherError(FIELD_INVALID, f"{name[:100]} stands twice in one object.", field=name[:100])
        values[name] = value
    return values


def _no_constant(name: str) -> NoReturn:
    raise TetherError(JSON_INVALID, f"{name} is not a JSON number.")
