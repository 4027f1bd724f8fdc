"""What the HTTP shim asks of the gateway, and what it gets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from p2p.content import ChatMessage, Sampling, TokenLogprob, Tool, Usage
from p2p.identity import PeerId
from p2p.rates import Rates
from tetherd.identity.tokens import TokenProof
from tetherd.tenants.keys import KeyProof


@dataclass(frozen=True, slots=True)
class Queued:
    """It waits for a slot. position: how many are due before it, and itself."""

    position: int


@dataclass(frozen=True, slots=True)
class Loading:
    """Its worker loads the model first. percent: of the load."""

    percent: int


Told = Callable[[Queued | Loading], None]
"""Is told, while a request waits, what it waits for."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One parsed request. Exactly one of messages, prompt and embed. max_tokens None: as many as the context holds.

    sampling.seed None-ness is in seed_given: without one the gateway draws it. traceparent: W3C, or "".
    key: the tenant's, None for `local`. It is plain data: the input of a job that dies is kept as such.
    """

    tenant: str
    model: str
    sampling: Sampling = Sampling()  # noqa: RUF009 it is frozen
    messages: tuple[ChatMessage, ...] | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    seed_given: bool = False
    idempotency_key: str | None = None
    traceparent: str = ""
    key: KeyProof | TokenProof | None = None
    tools: tuple[Tool, ...] = ()
    embed: tuple[str | tuple[int, ...], ...] = ()
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptSummary:
    worker: PeerId
    region: str
    tokens: int
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """Text that follows the text before it, the ids behind it (text may lag), and logprobs of each id if asked for.

    last: it is known that only the end follows; which says how it comes, and not what it is.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    vectors: tuple[bytes, ...] = ()
    last: bool = field(default=False, compare=False)

    def with_next(self, other: Delta) -> Delta:
        return Delta(
            self.text + other.text,
            self.token_ids + other.token_ids,
            self.logprobs + other.logprobs,
            self.vectors + other.vectors,
        )


@dataclass(frozen=True, slots=True)
class End:
    finish: Literal["stop", "length"]
    usage: Usage
    attempts: tuple[AttemptSummary, ...]


@dataclass(frozen=True, slots=True)
class Started:
    """Who answers. worker and region: of the first attempt that was accepted; rates: what is left of the minute."""

    job: bytes
    model: str
    version: str
    worker: PeerId
    region: str
    prompt_tokens: int
    created: float = field(default=0.0)
    rates: Rates | None = None


class Answer(Protocol):
    """An answer under way: iterate it once; it ends with exactly one End, or raises TetherError."""

    async def started(self) -> Started:
        """Wait until a worker has accepted. Raises TetherError when none will."""
        ...

    def __aiter__(self) -> AsyncIterator[Delta | End]: ...


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One line of /v1/models. context_tokens: the smallest among its workers; loaded: those that have it in memory.

    embeds: dimensions of its vectors; 0: it makes text.
    """

    name: str
    version: str
    digest: str
    context_tokens: int
    workers: int
    created: int = 0
    loaded: int = 0
    embeds: int = 0


class Inference(Protocol):
    """The gateway as the shim sees it."""

    def submit(self, submission: Submission, told: Told | None = None) -> AbstractAsyncContextManager[Answer]:
        """Place a request; leaving the context cancels what is not finished, down to the batch slot."""
        ...

    async def models(self, key: KeyProof | TokenProof | None = None) -> list[ModelSummary]:
        """What the region serves now, as far as whoever shows this key may use it."""
        ...

    def ready(self) -> tuple[bool, str]:
        """Whether a request could be placed, and if not, why."""
        ...
