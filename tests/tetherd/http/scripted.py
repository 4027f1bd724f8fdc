"""An `Inference` that plays a script, for the shim's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from p2p.content import Usage
from p2p.errors import MODEL_NOT_FOUND, TetherError
from p2p.identity import PeerId
from tetherd.gateway.answer import AttemptSummary, Delta, End, ModelSummary, Started, Submission, Told
from tetherd.identity.tokens import TokenProof
from tetherd.tenants.keys import KeyProof

LIMIT = 4_096
CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}]}
WORKER = PeerId("12D3worker")
END = End("stop", Usage(3, 2), (AttemptSummary(WORKER, "eu", 2),))


@dataclass
class ScriptedInference:
    """Answers every submission with `script`: deltas, an end, or an error."""

    script: Sequence[Delta | End | TetherError] = (Delta("Hel", (1,)), Delta("lo", (2,)), END)
    accept_after: trio.Event | None = None
    go_on_after: trio.Event | None = None
    refusal: TetherError | None = None
    submissions: list[Submission] = field(default_factory=list)
    told: list[Told | None] = field(default_factory=list)
    submitted: trio.Event = field(default_factory=trio.Event)
    left: trio.Event = field(default_factory=trio.Event)
    served: list[ModelSummary] = field(default_factory=lambda: [ModelSummary("demo", "1", "ab" * 32, 512, 2)])
    is_ready: tuple[bool, str] = (True, "")
    shown: list[str | None] = field(default_factory=list)

    @asynccontextmanager
    async def submit(self, submission: Submission, told: Told | None = None) -> AsyncIterator[ScriptedAnswer]:
        self.submissions.append(submission)
        self.told.append(told)
        self.submitted.set()
        if submission.model != "demo":
            raise TetherError(MODEL_NOT_FOUND, "No worker serves it; there are: demo.", field="model")
        try:
            yield ScriptedAnswer(self)
        finally:
            self.left.set()

    async def models(self, key: KeyProof | TokenProof | None = None) -> list[ModelSummary]:
        self.shown.append(key.tenant if key else None)
        return self.served

    def ready(self) -> tuple[bool, str]:
        return self.is_ready


class ScriptedAnswer:
    def __init__(self, inference: ScriptedInference) -> None:
        self._inference = inference

    async def started(self) -> Started:
        if self._inference.accept_after is not None:
            await self._inference.accept_after.wait()
        if self._inference.refusal is not None:
            raise self._inference.refusal
        return Started(b"j" * 32, "demo", "1", WORKER, "eu", 3, 1_000.0)

    async def __aiter__(self) -> AsyncIterator[Delta | End]:
        await self.started()
        for item in self._inference.script:
            if isinstance(item, TetherError):
                raise item
            yield item
            if self._inference.go_on_after is not None:
                await self._inference.go_on_after.wait()
