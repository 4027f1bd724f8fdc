"""Where chat templates are rendered: they come with a model, from whoever made it.

Jinja's sandbox keeps a template from the interpreter. What it does not bound is bounded here: time, the size of what
is rendered, and the operations that make much out of little.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any, Final, NoReturn

from jinja2 import Template, TemplateError
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.nodes import Concat
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inference.time_limit import TimeLimit, TimeLimitExceeded
from p2p.errors import FIELD_INVALID, MODEL_INVALID, TetherError

MAX_TEMPLATE_CHARS: Final = 1 << 18
MAX_RENDERED_CHARS: Final = 1 << 23
"""Beyond any context that is served; a template that writes for ever is stopped here."""
RENDER_S: Final = 2.0
"""And one that only loops, here. The longest conversation that is taken renders in a tenth of it."""
MAX_BASE: Final = 1 << 20
MAX_EXPONENT: Final = 64
MAX_INDENT: Final = 8

_NO_FILTERS: Final = ("center", "format", "indent", "sum", "urlize", "wordwrap", "xmlattr")
_NO_METHODS: Final = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
_FAULTS: Final = (
    TemplateError,
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
    MemoryError,
)


class Sandbox:
    """Compiles and renders one template. Raises TetherError(MODEL_INVALID) if it is no template."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE_CHARS:
            detail = f"The chat template has {len(source)} characters."
            raise TetherError(MODEL_INVALID, detail, field="model")
        try:
            self._template: Template = _Environment().from_string(source)
        except (TemplateError, RecursionError) as error:
            raise TetherError(
                MODEL_INVALID, f"The chat template is broken: {error}.", field="model"
            ) from error
        self._limit = TimeLimit(RENDER_S)

    def render(self, variables: Mapping[str, Any]) -> str:
        """Raises TetherError(FIELD_INVALID)."""
        try:
            with self._limit:
                return self._render(variables)
        except Refusal as refusal:
            raise _wrong(f"The model's chat template refuses these messages: {refusal}.") from refusal
        except TimeLimitExceeded as error:
            raise _wrong(
                f"The model's chat template takes over {RENDER_S:g} s for these messages."
            ) from error
        except _FAULTS as error:
            # An error's own words may quote a content, so only its kind is told.
            kind = type(error).__name__
            raise _wrong(f"The model's chat template cannot render these messages ({kind}).") from error

    def _render(self, variables: Mapping[str, Any]) -> str:
        parts: list[str] = []
        size = 0
        for part in self._template.generate(variables):
            parts.append(part)
            size += len(part)
            if size > MAX_RENDERED_CHARS:
                raise _wrong("The rendered conversation is too long.")
        return "".join(parts)


class Refusal(Exception):
    """The template called raise_exception."""


class _Generator(CodeGenerator):
    """Has the environment do every `~`, which Jinja otherwise compiles to a plain join."""

    def visit_Concat(self, node: Concat, frame: Frame) -> None:
        self.write("environment.concat((")
        for part in node.nodes:
            self.write("str(")
            self.visit(part, frame)
            self.write("), ")
        self.write("))")


class _Environment(ImmutableSandboxedEnvironment):
    """What chat templates expect of their renderer (as in Hugging Face transformers), and nothing else."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _Generator

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        for name in ("lipsum", "cycler", "joiner"):
            del self.globals[name]
        for name in _NO_FILTERS:
            del self.filters[name]
        self.globals["raise_exception"] = _refuse
        self.filters |= {"tojson": _to_json, "replace": _replace, "join": _join_filter}

    @staticmethod
    def concat(parts: Iterable[str], /) -> str:
        """What a block, a macro or a `~` makes."""
        kept = list(parts)
        _check(sum(map(len, kept)))
        return "".join(kept)

    def wrap_str_format(self, value: Any) -> None:
        """A format string may ask for any width, however short it is."""
        if super().wrap_str_format(value) is not None:
            raise SecurityError("str.format is not for templates")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Methods that pad or fill a string grow it to any size."""
        if isinstance(obj, str) and attr in _NO_METHODS:
            return False
        return bool(super().is_safe_attribute(obj, attr, value))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str) and __obj.__name__ in ("replace", "join"):
            return (_replace if __obj.__name__ == "replace" else _joined_by)(text, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        size: float
        match operator:
            case "+":
                size = _size(left) + _size(right)
            case "*":
                size = _size(left) * right if isinstance(right, int) else _size(right) * left
            case "**":
                size = MAX_RENDERED_CHARS if abs(left) <= MAX_BASE and abs(right) <= MAX_EXPONENT else inf
            case _:
                size = inf if isinstance(left, str | bytes) else 0
        _check(size)
        return super().call_binop(context, operator, left, right)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple | dict) else 0


def _check(size: float) -> None:
    if size > MAX_RENDERED_CHARS:
        raise SecurityError("too much is made out of little")


def _joined_by(separator: str, parts: Iterable[Any]) -> str:
    kept = [str(part) for part in parts]
    _check(sum(map(len, kept)) + len(separator) * len(kept))
    return separator.join(kept)


def _join_filter(parts: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        parts = [part.get(attribute, "") if isinstance(part, Mapping) else "" for part in parts]
    return _joined_by(str(separator), parts)


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    text, times = str(text), -1 if count is None else count
    found = text.count(old) if times < 0 else min(times, text.count(old))
    _check(len(text) + found * len(new))
    return str(text).replace(old, new, times)


def _refuse(reason: object = "") -> NoReturn:
    raise Refusal(str(reason)[:200])


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, MAX_INDENT))


def _wrong(detail: str) -> TetherError:
    return TetherError(FIELD_INVALID, detail, field="messages")
