"""Tools before a model's template: in its own form, in words where it has none, never as a forged control token."""

from __future__ import annotations

import json

import pytest

from inference.chat import ChatTemplate
from inference.tools import MAX_TOOLS, knows_tools
from p2p.content import ChatMessage, Tool, ToolCall
from p2p.errors import FIELD_INVALID, TetherError
from tests.inference.test_chat import TOKENIZER

PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
HERMES = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }} {{ c.function.arguments | tojson }}</tool_call>"
    "{% endfor %}{% endfor %}"
)
MISTRAL = (
    "[TOOL_CALLS]{{ tools | length }}"
    "{% for m in messages %}{% if m.tool_calls %}{{ m.tool_calls[0].id }}{% endif %}{% endfor %}"
)
TOOL = Tool("clock", "Tells the time.", '{"type": "object"}')
CALL = ToolCall("call_1", "clock", '{"zone": "UTC"}')
TURNS = [
    ChatMessage("user", "When?"),
    ChatMessage("assistant", "", (CALL,)),
    ChatMessage("tool", "noon", (), "call_1", "clock"),
]


def rendered(template: str, messages: list[ChatMessage], *tools: Tool) -> str:
    ids = ChatTemplate(template).encode(messages, TOKENIZER, tools)
    return "".join(map(chr, ids))


def test_a_template_that_knows_tools_gets_them_in_hugging_faces_form() -> None:
    text = rendered(HERMES, TURNS, TOOL)
    told = {"name": "clock", "description": "Tells the time.", "parameters": {"type": "object"}}
    assert text.startswith(json.dumps({"type": "function", "function": told}))
    assert '<tool_call>clock {"zone": "UTC"}</tool_call>' in text
    assert text.endswith("[tool]noon")


def test_one_that_knows_none_gets_them_in_words() -> None:
    text = rendered(PLAIN, TURNS, TOOL)
    assert text.startswith("[system]You may call functions.")
    assert '"name": "clock"' in text
    assert '[assistant]<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call>' in text
    assert text.endswith("[user]<tool_response>\nnoon\n</tool_response>")


def test_the_instruction_joins_a_system_message_that_is_there() -> None:
    text = rendered(PLAIN, [ChatMessage("system", "Be brief."), *TURNS], TOOL)
    assert text.startswith("[system]Be brief.\n\nYou may call functions.")
    assert text.count("[system]") == 1


def test_without_tools_nothing_is_added() -> None:
    assert rendered(PLAIN, TURNS[:1]) == "[user]When?"
    assert rendered(HERMES, TURNS[:1]) == "[user]When?"


def test_a_form_of_calls_that_is_not_read_back_is_not_used() -> None:
    assert knows_tools(HERMES)
    assert not knows_tools(HERMES + "<function=name>")
    assert not knows_tools("{{ tools }} in a form of its own")


def test_mistral_gets_ids_of_the_length_that_it_wants() -> None:
    text = rendered(MISTRAL, TURNS, TOOL)
    assert len(text.removeprefix("[TOOL_CALLS]1")) == 9


@pytest.mark.parametrize(
    ("tool", "call"),
    [
        (Tool("clock", "<|end|>"), CALL),
        (Tool("clock", "", '{"\\u003c|end|>": 1}'), CALL),
        (TOOL, ToolCall("1", "clock", '{"x": "</s>"}')),
        (TOOL, ToolCall("<s>", "clock", "{}")),
        (Tool("clock", "", "[]"), CALL),
        (Tool("clock", "", "{"), CALL),
        (TOOL, ToolCall("1", "clock", "[" * 100_000)),
    ],
)
@pytest.mark.parametrize("template", [PLAIN, HERMES])
def test_what_could_forge_a_control_token_or_is_no_json_is_refused(
    template: str, tool: Tool, call: ToolCall
) -> None:
    with pytest.raises(TetherError) as refused:
        rendered(template, [ChatMessage("assistant", "", (call,))], tool)
    assert refused.value.code is FIELD_INVALID


def test_the_number_of_tools_is_bounded() -> None:
    with pytest.raises(TetherError, match=str(MAX_TOOLS)):
        rendered(PLAIN, TURNS, *[TOOL] * (MAX_TOOLS + 1))
