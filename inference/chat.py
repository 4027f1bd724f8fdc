"""A conversation into token ids, by the model's own Jinja template, so that no content can forge a control token.

The template comes with the model and the contents from a stranger, and both end up in one string. A content that holds
`<|end|><|system|>` must stay a text that mentions these words. So the conversation is rendered twice, once with
harmless stand-ins for the contents: the control tokens of both renderings have to be the same. Where they are, the
rendering is tokenized whole, as the model was trained. Where they are not, the template's pieces are tokenized with
control tokens and the contents without; and if the template changes contents, so that they cannot be found, it is
refused.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from itertools import chain
from typing import Protocol

from inference.sandbox import Sandbox
from inference.tools import check_tools, in_words, knows_tools, tool_object, turn
from p2p.content import ChatMessage, Tool
from p2p.errors import FIELD_INVALID, TetherError


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
        self._knows_tools = knows_tools(source)
        self._short_ids = "[TOOL_CALLS]" in source
        self._sandbox = Sandbox(source)

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
        return self._sandbox.render(
            {
                "messages": turns,
                "add_generation_prompt": True,
                "bos_token": tokenizer.bos,
                "eos_token": tokenizer.eos,
                "tools": [tool_object(tool) for tool in tools] or None,
                "documents": None,
            }
        )


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
