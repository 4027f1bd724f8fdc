"""The turns of a chat, parsed strictly."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from p2p.content import ChatMessage, ToolCall
from p2p.errors import FIELD_INVALID, TetherError
from tetherd.http.fields import Fields, check_text

MAX_MESSAGES: Final = 4_096
MAX_CALLS: Final = 128
"""In one turn."""
MAX_ID_CHARS: Final = 256

_ROLES: Final[dict[str, Literal["system", "user", "assistant", "tool"]]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_OWN_FIELDS: Final = {"assistant": ("tool_calls",), "tool": ("tool_call_id", "name")}


def parse_messages(fields: Fields) -> tuple[ChatMessage, ...]:
    """Read `messages`. Raises TetherError naming the field."""
    values = fields.required("messages")
    if not isinstance(values, list):
        fields.refuse("messages", "has to be a list.")
    if not values:
        fields.refuse("messages", "is empty: it takes at least one message.")
    if len(values) > MAX_MESSAGES:
        fields.refuse("messages", f"has {len(values)} messages; at most {MAX_MESSAGES} are taken.")
    return tuple(_message(value, f"messages[{index}]") for index, value in enumerate(values))


def _message(value: Any, where: str) -> ChatMessage:
    if not isinstance(value, dict):
        raise TetherError(FIELD_INVALID, f"{where} has to be an object.", field=where)
    fields = Fields(value, f"{where}.")
    role = fields.text("role")
    if role not in _ROLES:
        fields.refuse("role", f"is {role[:40]!r}; it has to be one of {', '.join(_ROLES)}.")
    for name in value:
        known = ("role", "content", *_OWN_FIELDS.get(role, ()))
        if name not in known and name in fields and value[name] != []:
            fields.refuse(name[:100], f"is not supported in a message of role {role}.")
    calls = _calls(fields, where)
    content = "" if calls and "content" not in fields else _content(fields, where)
    if role != "tool":
        return ChatMessage(_ROLES[role], content, calls)
    name = fields.text("name", at_most=MAX_ID_CHARS) if "name" in fields else ""
    return ChatMessage("tool", content, (), fields.text("tool_call_id", at_most=MAX_ID_CHARS), name)


def _calls(fields: Fields, where: str) -> tuple[ToolCall, ...]:
    values = fields.raw("tool_calls") or []
    if not isinstance(values, list):
        fields.refuse("tool_calls", "has to be a list.")
    if len(values) > MAX_CALLS:
        fields.refuse("tool_calls", f"has {len(values)} calls; at most {MAX_CALLS} are taken.")
    return tuple(_call(value, f"{where}.tool_calls[{index}]") for index, value in enumerate(values))


def _call(value: Any, where: str) -> ToolCall:
    if not isinstance(value, dict):
        raise TetherError(FIELD_INVALID, f"{where} has to be an object.", field=where)
    call = Fields(value, f"{where}.")
    call.only(("id", "type", "function", "index"))
    call.required("function")
    function = call.inner("function")
    function.only(("name", "arguments"))
    arguments = function.text("arguments") or "{}"
    try:
        is_object = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        function.refuse("arguments", "has to be the text of a JSON object.")
    return ToolCall(
        call.text("id", at_most=MAX_ID_CHARS), function.text("name", at_most=MAX_ID_CHARS), arguments
    )


def _content(fields: Fields, where: str) -> str:
    value = fields.required("content")
    if isinstance(value, list):
        return "".join(_part(part, f"{where}.content[{index}]") for index, part in enumerate(value))
    return check_text(value, f"{where}.content")


def _part(value: Any, where: str) -> str:
    if not isinstance(value, dict):
        raise TetherError(FIELD_INVALID, f"{where} has to be an object.", field=where)
    fields = Fields(value, f"{where}.")
    if fields.required("type") != "text":
        fields.refuse("type", "has to be text: images and sound are not supported yet.")
    return fields.text("text")
