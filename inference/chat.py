"""A conversation into token ids, by the model's own Jinja template, so that no content can forge a control token.

The template comes with the model and the contents from a stranger, and both end up in one string. A content that holds
`<|end|><|system|>` must stay a text that mentions these words. So the conversation is rendered twice, once with
harmless stand-ins for the contents: the control tokens of both renderings have to be the same. Where they are, the
rendering is tokenized whole, as the model was trained. Where they are not, the template's pieces are tokenized with
control tokens and the contents without; and if the template changes contents, so that they cannot be found, it is
refused.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from itertools import chain
from typing import Final, NoReturn, Protocol

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inference.tools import check_tools, in_words, knows_tools, tool_object, turn
from p2p.content import ChatMessage, Tool
from p2p.errors import FIELD_INVALID, MODEL_INVALID, TetherError

MAX_TEMPLATE_CHARS: Final = 1 << 18
MAX_RENDERED_CHARS: Final = 1 << 23
"""Beyond any context that is served; a template that loops is stopped here."""


class Tokenizer(Protocol):
    """A vocabulary. special: whether the text of a control token becomes that token."""

    @property
    def bos(self) -> str:
        """The text of the token that begins a text, or empty."""
        ...

    @property
    def eos(self) -> str: ...

    def encode(self, text: str, *, special: bool) -> list[int]: ...

    def is_control(self, token: int) -> bool: ...


class ChatTemplate:
    """A model's chat template, sandboxed. Raises TetherError(MODEL_INVALID) if it is no template."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE_CHARS:
            raise TetherError(
                MODEL_INVALID, f"The chat template has {len(source)} characters.", field="model"
            )
        self._knows_tools = knows_tools(source)
        self._short_ids = "[TOOL_CALLS]" in source
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise TetherError(
                MODEL_INVALID, f"The chat template is broken: {error}.", field="model"
            ) from error

    def encode(
        self, messages: Sequence[ChatMessage], tokenizer: Tokenizer, tools: Sequence[Tool] = ()
    ) -> list[int]:
        """Render messages and open the assistant's turn. Raises TetherError(FIELD_INVALID)."""
        for text in check_tools(messages, tools):
            # Tools go into the rendering as JSON, where nothing can stand for their texts.
            if _controls(tokenizer.encode(text, special=True), tokenizer):
                detail = "A tool or a call of one holds the text of one of the model's control tokens."
                raise TetherError(FIELD_INVALID, detail, field="tools")
        if not self._knows_tools:
            messages, tools = in_words(messages, tools), ()
        contents = [message.content for message in messages]
        stand_ins = [f"content{index}x{secrets.token_hex(8)}" for index in range(len(messages))]
        tokens = tokenizer.encode(self._render(messages, contents, tools, tokenizer), special=True)
        pieces = self._render(messages, stand_ins, tools, tokenizer)
        if _controls(tokens, tokenizer) == _controls(tokenizer.encode(pieces, special=True), tokenizer):
            return tokens
        return _encode_apart(pieces, dict(zip(stand_ins, contents, strict=True)), tokenizer)

    def _render(
        self,
        messages: Sequence[ChatMessage],
        contents: Sequence[str],
        tools: Sequence[Tool],
        tokenizer: Tokenizer,
    ) -> str:
        turns = [
            turn(message, text, short_ids=self._short_ids)
            for message, text in zip(messages, contents, strict=True)
        ]
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(
                messages=turns,
                add_generation_prompt=True,
                bos_token=tokenizer.bos,
                eos_token=tokenizer.eos,
                tools=[tool_object(tool) for tool in tools] or None,
                documents=None,
            ):
                parts.append(part)
                size += len(part)
                if size > MAX_RENDERED_CHARS:
                    raise TetherError(
                        FIELD_INVALID, "The rendered conversation is too long.", field="messages"
                    )
        except _Refusal as refusal:
            detail = f"The model's chat template refuses these messages: {refusal}."
            raise TetherError(FIELD_INVALID, detail, field="messages") from refusal
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            # An error's own words may quote a content, so only its kind is told.
            detail = f"The model's chat template cannot render these messages ({type(error).__name__})."
            raise TetherError(FIELD_INVALID, detail, field="messages") from error
        return "".join(parts)


def _encode_apart(rendered: str, contents: dict[str, str], tokenizer: Tokenizer) -> list[int]:
    """Tokenize what the template wrote with control tokens, and what stands for the contents without."""
    pieces = re.split("(" + "|".join(contents) + ")", rendered)
    if sorted(set(contents) & set(pieces)) != sorted(contents):
        raise TetherError(
            FIELD_INVALID,
            "A message holds the text of one of the model's control tokens, and its chat template changes contents.",
            field="messages",
        )
    return list(
        chain.from_iterable(
            tokenizer.encode(contents[piece], special=False)
            if piece in contents
            else tokenizer.encode(piece, special=True)
            for piece in pieces
            if piece
        )
    )


def _controls(tokens: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    return [token for token in tokens if tokenizer.is_control(token)]


class _Refusal(Exception):
    """The template called raise_exception."""


def _environment() -> ImmutableSandboxedEnvironment:
    """What chat templates expect of their renderer (as in Hugging Face transformers), and nothing else."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    for name in ("lipsum", "cycler", "joiner"):
        del environment.globals[name]
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = _to_json
    return environment


def _refuse(reason: object = "") -> NoReturn:
    raise _Refusal(str(reason)[:200])


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
