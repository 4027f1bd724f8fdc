"""What is said to an OpenAI-compatible server, and what it says back. Pure.

Servers differ in what they take beyond OpenAI's own fields, and some refuse what they do not know. A server is told
apart by what its list of models says; of one that is not known, only what OpenAI documents is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from inference.engine import Generation, Prompt
from inference.tools import tool_object
from p2p.content import ChatMessage, Sampling
from p2p.errors import CAPACITY, CONTEXT_EXCEEDED, ENGINE_FAILED, FIELD_INVALID, TetherError

Kind = Literal["vllm", "sglang", "llama-server", "llama-cpp-python", "ollama", "other"]

MAX_LINE_BYTES: Final = 1 << 20
"""Of one event; a whole tool call in one is some kilobytes."""
MAX_CALLS: Final = 128
MAX_CALL_CHARS: Final = 1 << 20
UNKNOWN_CONTEXT: Final = 8_192
"""Of a server that does not say; a longer prompt is refused here, a shorter context by the server."""
LAST_CONTEXT: Final = 1 << 24
BYTES_A_TOKEN: Final = 4
TURN_TOKENS: Final = 4
"""What a template puts around a message, about."""
SEED_BITS: Final = 31
STOPS: Final = 4
"""As many as OpenAI takes; the rest is looked for here."""

_OWNERS: Final[dict[str, Kind]] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama-server",
    "me": "llama-cpp-python",
    "library": "ollama",
}
_CONTINUES: Final[frozenset[Kind]] = frozenset({"vllm", "sglang", "llama-server"})
"""These go on with an assistant's message that is the last one; others would begin another."""
_REPEAT: Final[dict[Kind, str]] = {
    "vllm": "repetition_penalty",
    "sglang": "repetition_penalty",
    "llama-server": "repeat_penalty",
    "llama-cpp-python": "repeat_penalty",
}
"""These take top_k and min_p, too."""
_COUNTERS: Final[dict[Kind, str]] = {
    "vllm": "/tokenize",
    "llama-server": "/tokenize",
    "llama-cpp-python": "/extras/tokenize/count",
}


class _Meta(msgspec.Struct):
    n_ctx: int | None = None
    n_ctx_train: int | None = None


class _Listed(msgspec.Struct):
    id: str
    owned_by: str | None = None
    max_model_len: int | None = None
    meta: _Meta | None = None


class _List(msgspec.Struct):
    data: list[_Listed]


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw | None = None


class _Count(msgspec.Struct):
    count: int | None = None
    tokens: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """What is known of one: its kind, the model there, how long prompt and answer may be together.

    embeds: dimensions of the model's vectors, 0 for text.
    """

    kind: Kind
    model: str
    context_tokens: int
    embeds: int = 0

    @property
    def counter(self) -> str:
        """The path, beside /v1, where it counts tokens; "": it does not."""
        return _COUNTERS.get(self.kind, "")

    def continues(self, prompt: Prompt) -> bool:
        """Whether an answer that was begun elsewhere can be gone on with by its text."""
        return prompt.messages is None or self.kind in _CONTINUES


def read_models(body: bytes, model: str) -> Server:
    """Raises TetherError(ENGINE_FAILED) if the list cannot be read, or the model is not in it."""
    try:
        listed = msgspec.json.decode(body, type=_List).data
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TetherError(ENGINE_FAILED, "The server's list of models is none of OpenAI's.") from error
    found = next((one for one in listed if one.id == model), None)
    if found is None:
        there = ", ".join(one.id[:64] for one in listed[:8]) or "none"
        raise TetherError(ENGINE_FAILED, f"The server has no model {model!r}; it has: {there}.")
    meta = found.meta or _Meta()
    context = found.max_model_len or meta.n_ctx or meta.n_ctx_train or UNKNOWN_CONTEXT
    kind = _OWNERS.get((found.owned_by or "").lower(), "other")
    return Server(kind, model, max(1, min(context, LAST_CONTEXT)))


def count_body(server: Server, prompt: Prompt) -> dict[str, Any]:
    """What is sent to the server's counter."""
    if server.kind == "vllm" and prompt.messages is not None:
        return {"model": server.model, "messages": [_message(one) for one in prompt.messages]}
    field = {"vllm": "prompt", "llama-server": "content"}.get(server.kind, "input")
    return {"model": server.model, field: _flat(prompt)}


def read_count(server: Server, prompt: Prompt, body: bytes) -> int:
    """Tokens of a prompt by the server's word; what a template adds is estimated. Falls back to `estimate`."""
    try:
        told = msgspec.json.decode(body, type=_Count)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return estimate(prompt)
    count = told.count if told.count is not None else len(told.tokens or ())
    if prompt.messages is not None and server.kind != "vllm":
        count += TURN_TOKENS * len(prompt.messages)
    return count if 0 < count <= len(_flat(prompt).encode()) * 2 + 1024 else estimate(prompt)


def estimate(prompt: Prompt) -> int:
    """Tokens of a prompt where nobody can count them."""
    turns = len(prompt.messages or ())
    return -(-len(_flat(prompt).encode()) // BYTES_A_TOKEN) + TURN_TOKENS * turns


def path_of(prompt: Prompt) -> str:
    return "/completions" if prompt.messages is None else "/chat/completions"


def request_body(server: Server, asked: Generation, begun: str) -> dict[str, Any]:
    """One streamed answer, to be gone on with after begun where it is not "". Raises TetherError(FIELD_INVALID)."""
    prompt = asked.source
    assert prompt is not None, "an attempt says what its prompt was made of"
    if asked.sampling.logprobs >= 0:
        detail = "This model is served by another server, and its probabilities are not passed on."
        raise TetherError(FIELD_INVALID, detail, field="logprobs")
    body: dict[str, Any] = {
        "model": server.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": asked.max_tokens - (len(asked.resume) if begun else 0),
        **_sampling(server, asked.sampling),
    }
    if prompt.messages is None:
        return body | {"prompt": (prompt.text or "") + begun}
    body["messages"] = [_message(one) for one in prompt.messages]
    if begun:
        body["messages"].append({"role": "assistant", "content": begun})
        if server.kind != "llama-server":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
    if prompt.tools:
        body["tools"] = [tool_object(tool) for tool in prompt.tools]
    return body


def _sampling(server: Server, sampling: Sampling) -> dict[str, Any]:
    said: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed % (1 << SEED_BITS),
    }
    if sampling.frequency_penalty:
        said["frequency_penalty"] = sampling.frequency_penalty
    if sampling.presence_penalty:
        said["presence_penalty"] = sampling.presence_penalty
    if sampling.stop:
        said["stop"] = list(sampling.stop[:STOPS])
    if sampling.logit_bias:
        said["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.json_schema:
        said["response_format"] = _format(server, json.loads(sampling.json_schema))
    if server.kind in _REPEAT:
        more = {"top_k": sampling.top_k, "min_p": sampling.min_p}
        said |= {name: value for name, value in more.items() if value}
        if sampling.repeat_penalty != 1.0:
            said[_REPEAT[server.kind]] = sampling.repeat_penalty
    return said


def _format(server: Server, schema: Any) -> dict[str, Any]:
    if server.kind == "llama-cpp-python":
        return {"type": "json_object", "schema": schema}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _message(message: ChatMessage) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        said["tool_call_id"] = message.tool_call_id
    return said


def _flat(prompt: Prompt) -> str:
    if prompt.messages is None:
        return prompt.text or ""
    tools = [json.dumps(tool_object(tool)) for tool in prompt.tools]
    return "\n".join([*(one.content for one in prompt.messages), *tools])


class Lines:
    """Server-sent events as they come, in any cuts: feed returns the data of those that are whole."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises TetherError(ENGINE_FAILED) for a line that does not end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES or any(len(line) > MAX_LINE_BYTES for line in lines):
            raise TetherError(ENGINE_FAILED, "The server sends an event that is too long.")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


class Reading:
    """One answer of the server. finish and completion_tokens: once it has said them; done: it has said all."""

    def __init__(self) -> None:
        self.finish: Literal["stop", "length"] | None = None
        self.completion_tokens: int | None = None
        self.done = False
        self._calls: dict[int, list[str]] = {}
        self._call_chars = 0

    def text(self, data: bytes) -> str:
        """What an event adds to the answer. Raises TetherError(ENGINE_FAILED) for one that cannot be read."""
        if data == b"[DONE]":
            self.done = True
            return ""
        try:
            event = msgspec.json.decode(data, type=_Event)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise TetherError(ENGINE_FAILED, "The server sends events that are none of OpenAI's.") from error
        if event.error is not None:
            raise TetherError(ENGINE_FAILED, "The server failed in mid-answer.")
        if event.usage is not None and event.usage.completion_tokens is not None:
            self.completion_tokens = event.usage.completion_tokens
        return "".join(self._choice(choice) for choice in (event.choices or ())[:1])

    def calls(self) -> str:
        """The functions that it called, as text that the gateway reads back."""
        told = [_called(name, arguments) for _, (name, arguments) in sorted(self._calls.items())]
        return "\n".join(told)

    def _choice(self, choice: _Choice) -> str:
        if choice.finish_reason is not None:
            self.finish = "length" if choice.finish_reason == "length" else "stop"
        delta = choice.delta or _Delta()
        for number, call in enumerate(delta.tool_calls or ()):
            function = call.function or _Function()
            entry = self._calls.setdefault(number if call.index is None else call.index, ["", ""])
            entry[0] += function.name or ""
            entry[1] += function.arguments or ""
            self._call_chars += len(function.name or "") + len(function.arguments or "")
        if len(self._calls) > MAX_CALLS or self._call_chars > MAX_CALL_CHARS:
            raise TetherError(ENGINE_FAILED, "The server calls too many functions, or with too much.")
        return choice.text or delta.content or ""


def _called(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments or "{}"}}}\n</tool_call>'


def error_of(status: int, body: bytes, retry_after_s: float | None = None) -> TetherError:
    """What a status other than 200 means. body: its beginning; what a 400 says stays inside the seal."""
    said = body.decode(errors="replace")[:300]
    match status:
        case 400 | 413 | 422 if "context" in said or "maximum" in said:
            return TetherError(CONTEXT_EXCEEDED, f"The server says: {said}")
        case 400 | 413 | 422:
            return TetherError(FIELD_INVALID, f"The server says: {said}", field="messages")
        case 429 | 503:
            return TetherError(CAPACITY, "The server is busy.", retry_after_s=retry_after_s or 1.0)
        case 401 | 403:
            detail = "The server refuses the key: set the variable that worker.server_key_env names."
            return TetherError(ENGINE_FAILED, detail)
        case 404:
            return TetherError(ENGINE_FAILED, "The server has no such model or path any more.")
        case _ if 300 <= status < 400:
            return TetherError(ENGINE_FAILED, "The server leads elsewhere, and redirects are not followed.")
        case _:
            return TetherError(ENGINE_FAILED, f"The server answers {status}.")
