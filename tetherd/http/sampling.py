"""How an answer is to be drawn, as OpenAI's fields say it, and a few that are common elsewhere."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from inference.json_schema import ANY_OBJECT, FIELD, check_schema
from p2p.content import Sampling
from p2p.errors import TetherError
from tetherd.http.fields import Fields, check_text

MAX_STOPS: Final = 4
MAX_STOP_CHARS: Final = 256
MAX_BIASES: Final = 300
"""OpenAI's own limit."""
MAX_LOGPROBS: Final = 20
MAX_COMPLETION_LOGPROBS: Final = 5
"""Both are OpenAI's own limits."""
MAX_TOKEN_ID: Final = 1 << 24
INT64: Final = 2**63

FIELDS: Final = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "stop", "response_format", "logit_bias"}
    | {"frequency_penalty", "presence_penalty", "repeat_penalty", "logprobs", "top_logprobs"}
    | {"exact"}
)


def parse_sampling(fields: Fields, *, chat: bool) -> tuple[Sampling, bool]:
    """The sampling, and whether the client gave a seed. chat: which endpoint. Raises TetherError naming the field."""
    seed = fields.integer("seed", -INT64, INT64 - 1)
    sampling = Sampling(
        temperature=fields.number("temperature", 1.0, 0.0, 2.0),
        top_p=fields.number("top_p", 1.0, 0.0, 1.0, above=True),
        top_k=fields.integer("top_k", 0, 1_000_000) or 0,
        min_p=fields.number("min_p", 0.0, 0.0, 1.0),
        seed=(seed or 0) % INT64,
        stop=_stops(fields),
        typical_p=fields.number("typical_p", 1.0, 0.0, 1.0, above=True),
        repeat_penalty=fields.number("repeat_penalty", 1.0, 0.0, 2.0, above=True),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2.0, 2.0),
        presence_penalty=fields.number("presence_penalty", 0.0, -2.0, 2.0),
        logit_bias=_logit_bias(fields),
        json_schema=_schema(fields),
        logprobs=_logprobs(fields, chat=chat),
        exact="exact" not in fields or fields.flag("exact"),
    )
    return sampling, seed is not None


def _stops(fields: Fields) -> tuple[str, ...]:
    if "stop" not in fields:
        return ()
    value = fields.raw("stop")
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list):
        fields.refuse("stop", "has to be a string or a list of strings.")
    if len(stops) > MAX_STOPS:
        fields.refuse("stop", f"has {len(stops)} strings; at most {MAX_STOPS} are taken.")
    checked = tuple(
        check_text(stop, f"stop[{index}]", at_most=MAX_STOP_CHARS) for index, stop in enumerate(stops)
    )
    if "" in checked:
        fields.refuse("stop", "holds an empty string, which would stop everything.")
    return checked


def _logit_bias(fields: Fields) -> tuple[tuple[int, float], ...]:
    """Token ids (as JSON wants them: strings) to what is added to their logits, -100 to 100."""
    biases = fields.raw("logit_bias")
    if biases is None:
        return ()
    if not isinstance(biases, dict):
        fields.refuse("logit_bias", "has to be an object of token ids and numbers.")
    if len(biases) > MAX_BIASES:
        fields.refuse("logit_bias", f"has {len(biases)} tokens; at most {MAX_BIASES} are taken.")
    return tuple(sorted(_bias(fields, token, value) for token, value in biases.items()))


def _bias(fields: Fields, token: str, value: Any) -> tuple[int, float]:
    if not (token.isascii() and token.isdecimal() and len(token) <= 8 and int(token) < MAX_TOKEN_ID):
        fields.refuse("logit_bias", f"names {token[:20]!r}, which is no token id.")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.fabs(value) <= 100:
        fields.refuse("logit_bias", f"has to give token {token} a number between -100 and 100.")
    return int(token), float(value)


def _logprobs(fields: Fields, *, chat: bool) -> int:
    """-1 for none. A chat says whether, and in another field how many; a completion says how many, zero being one."""
    if not chat:
        if "top_logprobs" in fields:
            fields.refuse("top_logprobs", "is for chats: here logprobs says how many.")
        count = fields.integer("logprobs", 0, MAX_COMPLETION_LOGPROBS)
        return -1 if count is None else count
    wanted, top = fields.flag("logprobs"), fields.integer("top_logprobs", 0, MAX_LOGPROBS)
    if top and not wanted:
        fields.refuse("top_logprobs", "needs logprobs: set that to true.")
    return top or 0 if wanted else -1


def _schema(fields: Fields) -> str:
    """The JSON schema that the answer has to keep to, "" for any text."""
    if "response_format" not in fields:
        return ""
    wanted = fields.inner("response_format")
    match wanted.text("type", at_most=40):
        case "text":
            wanted.only(("type",))
            return ""
        case "json_object":
            wanted.only(("type",))
            return ANY_OBJECT
        case "json_schema":
            wanted.only(("type", "json_schema"))
            wanted.required("json_schema")
            named = wanted.inner("json_schema")
            named.only(("name", "description", "schema", "strict"))
            if not isinstance(named.required("schema"), dict):
                named.refuse("schema", "has to be an object.")
            try:
                return check_schema(json.dumps(named.raw("schema"), ensure_ascii=False))
            except TetherError as error:
                raise TetherError(error.code, error.detail, field=f"{FIELD}.json_schema.schema") from error
        case other:
            wanted.refuse("type", f"is {other!r}; it has to be text, json_object or json_schema.")
