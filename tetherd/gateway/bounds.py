"""How many tokens a prompt can have at most, for a node that may have no tokenizer. Pure."""

from __future__ import annotations

from typing import Final

from p2p.content import SealedInput
from p2p.wire import encode

TOOLS_TOKENS: Final = 512
"""What a template says about tools in general."""
TOOLS_FACTOR: Final = 4


def prompt_bound(content: SealedInput, tokens_per_message: int) -> int:
    """The most tokens that the prompt can have: one a byte, and what a chat template puts around each message.

    Templates write tools with indentation, which makes them up to four times as long.
    """
    messages = content.messages or ()
    texts = [content.prompt or "", *(message.content for message in messages)]
    tokens = sum(len(text.encode()) + tokens_per_message for text in texts)
    tokens += sum(
        (len(one.encode()) if isinstance(one, str) else len(one)) + tokens_per_message
        for one in content.embed
    )
    calls = [call for message in messages for call in message.tool_calls]
    if content.tools or calls:
        told = sum(len(encode(one)) + tokens_per_message for one in (*content.tools, *calls))
        tokens += TOOLS_TOKENS + TOOLS_FACTOR * told
    return tokens
