"""OpenAI's two request bodies, parsed strictly into a `Submission`.

A field that would change the answer and cannot be honoured is refused by name, and so is one that nobody knows. Fields
that change nothing (user, metadata, store) pass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from msgspec import structs

from p2p.content import ChatMessage
from p2p.errors import FIELD_INVALID, TetherError
from tetherd.gateway.answer import Submission
from tetherd.http.fields import Fields, check_text, read_object
from tetherd.http.messages import parse_messages
from tetherd.http.sampling import FIELDS as SAMPLING_FIELDS
from tetherd.http.sampling import INT64, parse_sampling
from tetherd.http.tools import FIELDS as TOOL_FIELDS
from tetherd.http.tools import NO_TOOLS, Tools, parse_tools
from tetherd.identity.tokens import TokenProof, looks_like_token
from tetherd.tenants.keys import MARK, KeyProof, read_key

LOCAL_TENANT: Final = "local"
MAX_TOKENS: Final = 1_000_000
MAX_MODEL_CHARS: Final = 256
MAX_CHOICES: Final = 128
"""OpenAI's own limit of n; here prompts times n."""
MAX_IDEMPOTENCY_KEY_CHARS: Final = 255

_READ: Final = frozenset(
    {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"} | SAMPLING_FIELDS
)
_WITHOUT_EFFECT: Final = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
    }
    | {"prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
)
"""What is about the service at OpenAI, not about the answer."""
_UNSUPPORTED: Final[Mapping[str, tuple[Any, ...]]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "best_of": (1,),
    "suffix": ("",),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields that this version cannot honour, with the values that ask for nothing."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """One submission for each answer that is asked for, and how the client wants them. echo: the prompts, too."""

    submissions: tuple[Submission, ...]
    stream: bool
    include_usage: bool
    echo: bool = False
    tools: Tools = NO_TOOLS


def parse_chat(body: bytes, headers: Mapping[str, str]) -> Parsed:
    """Read the body of /v1/chat/completions. Raises TetherError naming the field."""
    fields = Fields(read_object(body))
    _check_names(fields, "messages", *TOOL_FIELDS)
    tools = parse_tools(fields)
    if tools.told and fields.raw("response_format") not in (None, {"type": "text"}):
        fields.refuse("response_format", "cannot go with tools: say one or the other.")
    return _parsed(fields, headers, [_Content(messages=parse_messages(fields))], tools=tools)


def parse_completion(body: bytes, headers: Mapping[str, str]) -> Parsed:
    """Read the body of /v1/completions. Raises TetherError naming the field."""
    fields = Fields(read_object(body))
    _check_names(fields, "prompt", "echo")
    echo = fields.flag("echo")
    if echo and "logprobs" in fields:
        fields.refuse("echo", "with logprobs is not supported: a prompt's probabilities are not computed.")
    return _parsed(fields, headers, [_Content(prompt=prompt) for prompt in _prompts(fields)], echo=echo)


def _check_names(fields: Fields, *own: str) -> None:
    fields.only({*own, *_READ, *_WITHOUT_EFFECT, *_UNSUPPORTED})
    for name, neutral in _UNSUPPORTED.items():
        if name in fields and not _is_one_of(fields.raw(name), neutral):
            fields.refuse(name, f"is not supported yet{_only(neutral)}.")


class _Content(NamedTuple):
    messages: tuple[ChatMessage, ...] | None = None
    prompt: str | None = None


def _parsed(
    fields: Fields,
    headers: Mapping[str, str],
    contents: Sequence[_Content],
    *,
    echo: bool = False,
    tools: Tools = NO_TOOLS,
) -> Parsed:
    sampling, seed_given = parse_sampling(fields, chat=contents[0].messages is not None)
    if tools.must:
        sampling = structs.replace(sampling, json_schema=tools.schema)
    key = shown_key(headers)
    first = Submission(
        tenant=key.tenant if isinstance(key, KeyProof) else LOCAL_TENANT,
        model=fields.text("model", at_most=MAX_MODEL_CHARS),
        sampling=sampling,
        max_tokens=_max_tokens(fields),
        seed_given=seed_given,
        idempotency_key=replay_key_of(headers),
        traceparent=headers.get("traceparent", "")[:128],
        key=key,
        tools=tools.told,
    )
    each = fields.integer("n", 1, MAX_CHOICES) or 1
    if each * len(contents) > MAX_CHOICES:
        fields.refuse("n", f"asks for {each * len(contents)} answers in all; at most {MAX_CHOICES} are made.")
    stream = fields.flag("stream")
    options = fields.inner("stream_options")
    options.only(("include_usage", "include_obfuscation"))
    if not stream and "stream_options" in fields:
        fields.refuse("stream_options", "is only for streams: set stream to true.")
    wanted = [content for content in contents for _ in range(each)]
    submissions = tuple(_nth(first, content, index) for index, content in enumerate(wanted))
    return Parsed(submissions, stream, options.flag("include_usage"), echo, tools)


def _nth(first: Submission, content: _Content, index: int) -> Submission:
    """A job of its own, with the next seed: one seed for all would give the same answer n times."""
    key = first.idempotency_key
    return replace(
        first,
        messages=content.messages,
        prompt=content.prompt,
        sampling=structs.replace(first.sampling, seed=(first.sampling.seed + index) % INT64),
        idempotency_key=f"{key}#{index}" if key and index else key,
    )


def shown_key(headers: Mapping[str, str]) -> KeyProof | TokenProof | None:
    """None for what is none of ours: clients send placeholders, and whether one will do, the orchestrator says."""
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    if looks_like_token(shown := shown.strip()):
        return TokenProof(shown)
    return read_key(shown) if shown.startswith(MARK) else None


def _prompts(fields: Fields) -> list[str]:
    value = fields.required("prompt")
    if not isinstance(value, list):
        return [check_text(value, "prompt")]
    if not 1 <= len(value) <= MAX_CHOICES:
        fields.refuse("prompt", f"has {len(value)} entries; it takes 1 to {MAX_CHOICES}.")
    if isinstance(value[0], int | list):
        fields.refuse("prompt", "has to be text: token ids are not taken.")
    return [check_text(prompt, f"prompt[{index}]") for index, prompt in enumerate(value)]


def _max_tokens(fields: Fields) -> int | None:
    newer = fields.integer("max_completion_tokens", 1, MAX_TOKENS)
    older = fields.integer("max_tokens", 1, MAX_TOKENS)
    return newer if newer is not None else older


def replay_key_of(headers: Mapping[str, str]) -> str | None:
    """The client's Idempotency-Key. Raises TetherError(FIELD_INVALID)."""
    key = headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY_CHARS:
        detail = f"The Idempotency-Key has to have 1 to {MAX_IDEMPOTENCY_KEY_CHARS} characters."
        raise TetherError(FIELD_INVALID, detail, field="Idempotency-Key")
    return key


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    """By type, too: True is no 1 here."""
    return any(type(value) is type(one) and value == one for one in neutral)


def _only(neutral: tuple[Any, ...]) -> str:
    return f"; it may only be {json.dumps(neutral[0])}" if neutral else ""
