"""Finished answers, kept for a while for those who ask again under the same Idempotency-Key.

A client that lost its answer on the way gets the very same one, and nothing is computed or billed twice. An answer is
sealed at rest with a key of its own that only this node can derive; after an hour, or when 64 MiB are full, the oldest
go, and the ledger answers RESULT_GONE. Answers to requests without a key are never kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, Literal

import structlog
import trio

from p2p.content import TokenLogprob, Usage
from p2p.errors import RETRY_TOKEN_CONFLICT, TetherError
from p2p.identity import PeerId
from p2p.messages import Message
from p2p.wire import decode, encode
from tetherd.gateway.answer import Answer, AttemptSummary, Delta, End, Started
from tetherd.gateway.sealed_files import SealedFiles
from tetherd.gateway.secrets import replay_key

KEPT_S: Final = 3_600.0
"""Longer than any client goes on trying."""
KEPT_BYTES: Final = 64 << 20
"""Of all answers: some ten thousand of a few pages."""
MAX_ANSWER_BYTES: Final = 4 << 20
"""Of one: longer than any model's context; what is longer is not kept."""

_log: Final = structlog.get_logger()


Piece = tuple[str, tuple[TokenLogprob, ...], tuple[bytes, ...]]
Pieces = tuple[Piece, ...]


class Kept(Message, frozen=True):
    """An answer as it went out. pieces: as it was cut, so that a stream repeats byte for byte."""

    request_mac: bytes
    asked_model: str
    model: str
    version: str
    worker: PeerId
    region: str
    prompt_tokens: int
    created: float
    pieces: Pieces
    finish: Literal["stop", "length"]
    usage: Usage
    attempts: tuple[tuple[PeerId, str, int, str], ...]


class Replayed:
    """Implements `Answer` from memory."""

    def __init__(self, job: bytes, kept: Kept) -> None:
        self._started = Started(
            job, kept.model, kept.version, kept.worker, kept.region, kept.prompt_tokens, kept.created
        )
        attempts = tuple(AttemptSummary(*one) for one in kept.attempts)
        self._items: list[Delta | End] = [
            Delta(text, (), logprobs, vectors) for text, logprobs, vectors in kept.pieces
        ]
        self._items.append(End(kept.finish, kept.usage, attempts))

    async def started(self) -> Started:
        await trio.lowlevel.checkpoint()
        return self._started

    async def __aiter__(self) -> AsyncIterator[Delta | End]:
        for item in self._items:
            await trio.lowlevel.checkpoint()
            yield item


class Recording:
    """Implements `Answer`: passes another one through, and keeps it before its end is told."""

    def __init__(self, answer: Answer, keep: Callable[[Started, Pieces, End], Awaitable[None]]) -> None:
        self._answer = answer
        self._keep = keep

    async def started(self) -> Started:
        return await self._answer.started()

    async def __aiter__(self) -> AsyncIterator[Delta | End]:
        pieces: list[Piece] = []
        size_bytes = 0
        async for item in self._answer:
            match item:
                case Delta(text, _, logprobs, vectors):
                    size_bytes += 4 * len(text) + sum(map(len, vectors))
                    size_bytes += sum(32 * (1 + len(one.top)) for one in logprobs)
                    if size_bytes <= MAX_ANSWER_BYTES:
                        pieces.append((text, logprobs, vectors))
                case End() if size_bytes <= MAX_ANSWER_BYTES:
                    await self._keep(await self._answer.started(), tuple(pieces), item)
            yield item


class Replays:
    """The kept answers of one gateway, a file each. now: unix seconds. `open` before anything else."""

    def __init__(self, folder: Path, secret: bytes, *, now: Callable[[], float]) -> None:
        self._files = SealedFiles(
            folder, partial(replay_key, secret), kept_s=KEPT_S, kept_bytes=KEPT_BYTES, now=now
        )
        self.open = self._files.open

    async def find(self, job: bytes, request_mac: bytes, model: str) -> Replayed | None:
        """The answer to this very request. Raises TetherError(RETRY_TOKEN_CONFLICT) if the key was another's."""
        plain = await self._files.get(job)
        if plain is None:
            return None
        try:
            kept = decode(plain, Kept)
        except TetherError:
            _log.warning("replay.damaged", job=job.hex())
            return None
        if (kept.request_mac, kept.asked_model) != (request_mac, model):
            detail = "This Idempotency-Key was used for another request."
            raise TetherError(RETRY_TOKEN_CONFLICT, detail, field="Idempotency-Key")
        return Replayed(job, kept)

    def record(self, answer: Answer, request_mac: bytes, model: str, job: bytes | None = None) -> Answer:
        """The same answer, kept once it is whole. job: whose it is, if not the one that computes it."""
        return Recording(answer, partial(self._keep, request_mac, model, job))

    async def _keep(
        self,
        request_mac: bytes,
        model: str,
        job: bytes | None,
        started: Started,
        pieces: Pieces,
        end: End,
    ) -> None:
        kept = Kept(
            request_mac=request_mac,
            asked_model=model,
            model=started.model,
            version=started.version,
            worker=started.worker,
            region=started.region,
            prompt_tokens=started.prompt_tokens,
            created=started.created,
            pieces=pieces,
            finish=end.finish,
            usage=end.usage,
            attempts=tuple((one.worker, one.region, one.tokens, one.cause) for one in end.attempts),
        )
        await self._files.put(job or started.job, encode(kept))
