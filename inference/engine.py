"""The seam between a worker and whatever turns tokens into tokens.

`inference/llama.py` is llama.cpp in a process of its own. An engine counts, renders and samples; it knows nothing of
grants, seals, tenants or the network.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from p2p.content import ChatMessage, Sampling, TokenLogprob, Tool

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine serves. context_tokens: prompt and answer together; slots: requests at a time; exact: it can be.

    build_tag says between which engines the same seed gives the same bytes: model digest, llama.cpp commit, CPU
    features, recipe. tokens_per_second: of one answer alone, measured at the load; 0: nobody knows.
    embeds: dimensions of the vectors of a model that makes no text; 0: text.
    serving: false while a server that the engine stands for is away.
    """

    context_tokens: int
    slots: int
    build_tag: str
    exact: bool = False
    tokens_per_second: float = 0.0
    on_gpu: bool = False
    serving: bool = True
    embeds: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """Exactly one of messages (rendered by the model's chat template, with tools) and text (as it stands)."""

    messages: tuple[ChatMessage, ...] | None = None
    text: str | None = None
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer to make. prompt: token ids; resume: ids already emitted, sampling goes on at len(resume).

    max_tokens counts the whole answer, resumed ids included. scope: requests with the same one may use each other's
    computed prefixes, b"": nobody's. exact: wherever the engine can; else the faster way. source: what the prompt was
    made of, for engines that others tokenize for.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = Sampling()  # noqa: RUF009 it is frozen
    resume: tuple[int, ...] = ()
    scope: bytes = b""
    exact: bool = True
    source: Prompt | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """Some new tokens. position: of the first id in the whole answer; text may lag while a character or a stop is open.

    The ids of an end-of-generation token are not among them. finish is set on the last one, whose ids may be empty.
    logprobs: one for each id where they were asked for. cached: on the last one, how many tokens of the prompt had not
    to be computed.
    """

    ids: tuple[int, ...]
    position: int
    text: str
    finish: Finish | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    cached: int = 0


class Engine(Protocol):
    @property
    def info(self) -> EngineInfo: ...

    async def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        """Render and count. Raises TetherError(FIELD_INVALID) when the template refuses the messages."""
        ...

    def generate(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Tokens]]:
        """Open one answer; leaving the context cancels it and frees its slot.

        Raises TetherError(ENGINE_FAILED) if the engine's process dies, CONTEXT_EXCEEDED if it cannot fit.
        """
        ...


@dataclass(frozen=True, slots=True)
class Input:
    """One to embed. source: as it was asked for, for engines that others tokenize for; ids: its tokens."""

    source: str | tuple[int, ...]
    ids: tuple[int, ...]


@runtime_checkable
class Embedder(Protocol):
    """An engine of a model that makes vectors."""

    async def count_inputs(self, inputs: tuple[str | tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        """Each input's token ids. Raises TetherError(FIELD_INVALID | ENGINE_FAILED)."""
        ...

    async def embed(self, inputs: tuple[Input, ...]) -> tuple[bytes, ...]:
        """Vectors of length 1, little-endian float32; inputs: no more at a time than the engine has slots.

        Raises TetherError(ENGINE_FAILED).
        """
        ...
