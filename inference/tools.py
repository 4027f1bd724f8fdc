"""Tools in a conversation, for the model's template: as it was trained to see them, or in words where it never was.

Most templates that know tools show them as Hugging Face's do: `tools` in OpenAI's form, `tool_calls` with arguments as
objects, results under the role `tool`. A template that does not mention tools, or wants calls in a form that no one
here reads back, gets the tools as an instruction, and past calls and their results as text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from p2p.content import ChatMessage, Tool
from p2p.errors import FIELD_INVALID, TetherError

MARKERS: Final = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
"""What models put around calls. Some vocabularies have control tokens for them; an answer shows these all the same."""
MAX_TOOLS: Final = 128
"""OpenAI's own limit."""
MAX_CALLS: Final = 4_096
MISTRAL_ID_CHARS: Final = 9
"""Mistral's templates refuse a call whose id has another length."""

_READ_BACK: Final = ("<tool_call>", "[TOOL_CALLS]", "python_tag")
_OTHER_FORMS: Final = ("<function=", "[ARGS]", "tool▁calls")

_INSTRUCTION: Final = """You may call functions. They are, one a line, as JSON:
{tools}
To call one, answer with nothing but
<tool_call>
{{"name": its name, "arguments": an object that keeps to its parameters}}
</tool_call>
and repeat that for each call. Otherwise answer in words."""


def knows_tools(template: str) -> bool:
    """Whether a chat template shows tools, in a form whose calls can be read back."""
    return (
        "tools" in template
        and any(mark in template for mark in _READ_BACK)
        and not any(mark in template for mark in _OTHER_FORMS)
    )


def check_tools(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> list[str]:
    """All texts of tools and calls, JSON unescaped. Raises TetherError(FIELD_INVALID): they come from a stranger."""
    calls = [call for message in messages for call in message.tool_calls]
    if len(tools) > MAX_TOOLS or len(calls) > MAX_CALLS:
        raise _wrong(f"There are over {MAX_TOOLS} tools or {MAX_CALLS} calls of them.")
    objects = [
        _object(text) for text in (*(one.parameters for one in tools), *(one.arguments for one in calls))
    ]
    names = [text for tool in tools for text in (tool.name, tool.description)]
    names += [text for call in calls for text in (call.id, call.name)]
    names += [text for message in messages for text in (message.name, message.tool_call_id)]
    return [*filter(None, names), *(json.dumps(one, ensure_ascii=False) for one in objects)]


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong("The parameters of a tool, or the arguments of a call, are not JSON.") from error
    if not isinstance(value, dict):
        raise _wrong("The parameters of a tool and the arguments of a call have to be JSON objects.")
    return value


def _wrong(detail: str) -> TetherError:
    return TetherError(FIELD_INVALID, detail, field="tools")


def tool_object(tool: Tool) -> dict[str, Any]:
    """As templates expect it. Both it and the calls were checked by check_tools."""
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    return {"type": "function", "function": {**function, "parameters": json.loads(tool.parameters)}}


def turn(message: ChatMessage, content: str, *, short_ids: bool) -> dict[str, Any]:
    """One message as templates expect it. content: the message's, or what stands for it."""
    said: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "id": _id(call.id, short=short_ids),
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        said["tool_call_id"] = _id(message.tool_call_id, short=short_ids)
        said["name"] = message.name
    return said


def in_words(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> list[ChatMessage]:
    """The same conversation for a template that knows no tools."""
    told = [_in_words(message) for message in messages]
    if not tools:
        return told
    lines = "\n".join(json.dumps(tool_object(tool)["function"], ensure_ascii=False) for tool in tools)
    instruction = _INSTRUCTION.format(tools=lines)
    if told and told[0].role == "system":
        return [ChatMessage("system", f"{told[0].content}\n\n{instruction}"), *told[1:]]
    return [ChatMessage("system", instruction), *told]


def _in_words(message: ChatMessage) -> ChatMessage:
    if message.role == "tool":
        return ChatMessage("user", f"<tool_response>\n{message.content}\n</tool_response>")
    calls = [
        f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n</tool_call>'
        for call in message.tool_calls
    ]
    return ChatMessage(message.role, "\n".join(filter(None, [message.content, *calls])))


def _id(call: str, *, short: bool) -> str:
    return hashlib.sha256(call.encode()).hexdigest()[:MISTRAL_ID_CHARS] if short else call
