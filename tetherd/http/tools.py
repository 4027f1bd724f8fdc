"""What a client says that the model may call, and whether it must."""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple

from inference.json_schema import check_schema
from inference.tools import MAX_TOOLS
from p2p.content import Tool
from p2p.errors import FIELD_INVALID, TetherError
from tetherd.http.fields import Fields

FIELDS: Final = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
MAX_NAME_CHARS: Final = 64
MAX_DESCRIPTION_CHARS: Final = 16_384

_NAME: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}")


class Tools(NamedTuple):
    """told: what the model sees. must: of these one has to be called; empty: the model is free. at_most: calls."""

    told: tuple[Tool, ...] = ()
    must: tuple[Tool, ...] = ()
    at_most: int | None = None

    @property
    def schema(self) -> str:
        """What an answer has to be when a call is wanted: a JSON schema, "" for any text. Raises FIELD_INVALID."""
        if not self.must:
            return ""
        calls = [_call_schema(tool) for tool in self.must]
        try:
            return check_schema(json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls}))
        except TetherError as error:
            detail = f"A call cannot be kept to these parameters: {error.detail}"
            raise TetherError(error.code, detail, field="tools") from error


NO_TOOLS: Final = Tools()


def parse_tools(fields: Fields) -> Tools:
    """Read tools, tool_choice and parallel_tool_calls. Raises TetherError naming the field."""
    tools = _tools(fields)
    at_most = None if fields.raw("parallel_tool_calls") in (None, True) else 1
    if "parallel_tool_calls" in fields:
        fields.flag("parallel_tool_calls")
    wanted = fields.raw("tool_choice")
    if wanted in (None, "auto"):
        return Tools(tools, (), at_most)
    if wanted == "none":
        return Tools()
    if not tools:
        fields.refuse("tool_choice", "needs tools.")
    if wanted == "required":
        return Tools(tools, tools, 1)
    name = _chosen(fields, wanted)
    must = tuple(tool for tool in tools if tool.name == name)
    if not must:
        fields.refuse("tool_choice", f"names {name[:MAX_NAME_CHARS]!r}, which is none of the tools.")
    return Tools(tools, must, 1)


def _chosen(fields: Fields, wanted: Any) -> str:
    if not isinstance(wanted, dict):
        fields.refuse("tool_choice", 'has to be "none", "auto", "required" or the name of a function.')
    choice = fields.inner("tool_choice")
    choice.only(("type", "function"))
    if choice.text("type", at_most=40) != "function":
        choice.refuse("type", "has to be function.")
    choice.required("function")
    return choice.inner("function").text("name")


def _tools(fields: Fields) -> tuple[Tool, ...]:
    values = fields.raw("tools")
    if values is None:
        return ()
    if not isinstance(values, list):
        fields.refuse("tools", "has to be a list.")
    if len(values) > MAX_TOOLS:
        fields.refuse("tools", f"has {len(values)} entries; at most {MAX_TOOLS} are taken.")
    tools = tuple(_tool(value, f"tools[{index}]") for index, value in enumerate(values))
    if len({tool.name for tool in tools}) < len(tools):
        fields.refuse("tools", "has two functions of one name.")
    return tools


def _tool(value: Any, where: str) -> Tool:
    if not isinstance(value, dict):
        raise TetherError(FIELD_INVALID, f"{where} has to be an object.", field=where)
    tool = Fields(value, f"{where}.")
    tool.only(("type", "function"))
    if tool.text("type", at_most=40) != "function":
        tool.refuse("type", "has to be function.")
    tool.required("function")
    function = tool.inner("function")
    function.only(("name", "description", "parameters", "strict"))
    name = function.text("name")
    if not _NAME.fullmatch(name):
        function.refuse("name", f"has to be up to {MAX_NAME_CHARS} letters, digits, _ and -.")
    described = "description" in function
    description = function.text("description", at_most=MAX_DESCRIPTION_CHARS) if described else ""
    parameters = function.raw("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        function.refuse("parameters", "has to be a JSON schema.")
    return Tool(name, description, json.dumps(parameters, ensure_ascii=False))


def _call_schema(tool: Tool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": json.loads(tool.parameters)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
