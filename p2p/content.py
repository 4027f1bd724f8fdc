"""What travels only inside the seal between a gateway and its chosen worker: prompts, answers, and how to draw.

Nobody else ever decodes these; `p2p.sealed` opens and closes the seal, `p2p.messages` has what goes in clear.
"""

from __future__ import annotations

from typing import Literal

from p2p.errors import WireError
from p2p.messages import Message, SignedReceipt


class ToolCall(Message, frozen=True):
    """A call that an assistant made. arguments: a JSON object's text."""

    id: str
    name: str
    arguments: str


class Tool(Message, frozen=True):
    """What a model may call. parameters: a JSON schema's text, of an object."""

    name: str
    description: str = ""
    parameters: str = "{}"


class ChatMessage(Message, frozen=True):
    """One turn. tool_calls: only an assistant's; tool_call_id and name: only a tool's, which call it answers."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""


class Sampling(Message, frozen=True):
    """How tokens are drawn. temperature 0 is greedy; seed: set by the gateway; json_schema: JSON text, "" for none.

    exact: reproducible to the bit where the worker can; false: the faster way.
    logprobs: how many of the likeliest tokens to tell beside each drawn one; -1: not even that one's probability.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    json_schema: str = ""
    logprobs: int = -1
    exact: bool = True


class SealedInput(Message, frozen=True):
    """What is inside the seal of an Infer.Request: the content, and the key of the request MAC.

    Exactly one of messages, prompt and embed (texts or token ids to make vectors of) is set.
    resume: token ids already emitted, all of them; the worker goes on
    at position len(resume). tools: what the model is told that it may call. prefixes: as the placement was asked for.
    """

    mac_key: bytes
    messages: tuple[ChatMessage, ...] | None = None
    prompt: str | None = None
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    resume: tuple[int, ...] = ()
    tools: tuple[Tool, ...] = ()
    prefixes: tuple[bytes, ...] = ()
    embed: tuple[str | tuple[int, ...], ...] = ()


class Usage(Message, frozen=True):
    """cached_tokens: of the prompt, those that had not to be computed; they are billed all the same."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class TokenLogprob(Message, frozen=True):
    """A drawn token's bytes, its natural log-probability under the model, and those of the likeliest ones."""

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


class ChunkBody(Message, frozen=True):
    """What is inside the seal of a chunk.

    Before a model is in memory come some with nothing but loading: percents of its load. Then one has accepted set
    (prompt tokens counted) and no tokens. token_ids start at position (counted from
    the start of the answer, resumed ids included); text may lag behind them while a character or a stop is open.
    logprobs: none, or one for each id.
    vectors: of an embedding, little-endian float32; position is then the first one's among the inputs.
    The last one has finish, usage and receipt, or error.
    """

    accepted: int | None = None
    token_ids: tuple[int, ...] = ()
    text: str = ""
    position: int = 0
    finish: Literal["stop", "length"] | None = None
    usage: Usage | None = None
    receipt: SignedReceipt | None = None
    error: WireError | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    loading: int | None = None
    vectors: tuple[bytes, ...] = ()
