"""Inputs of jobs that died, kept sealed here alone, and tried again when an operator asks for it.

The answer of a retry is nobody's but the client's: it is kept for whoever asks again under the same Idempotency-Key.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from p2p.errors import FORBIDDEN, INPUT_UNAVAILABLE, TetherError
from p2p.identity import PeerId
from p2p.job_id import job_id
from p2p.membership import Member
from p2p.messages import RetryAnswer, RetryOrder
from p2p.transport import Transport
from tetherd.gateway.answer import Submission
from tetherd.gateway.sealed_files import SealedFiles
from tetherd.gateway.secrets import dead_input_key

KEPT_S: Final = 14 * 86_400.0
"""As long as their letters."""
KEPT_BYTES: Final = 64 << 20
"""Of all: a few thousand pages; the oldest go first, and their retries are INPUT_UNAVAILABLE."""
_DECODER: Final = msgspec.msgpack.Decoder(Submission)
_log: Final = structlog.get_logger()

Again = Callable[[Submission, Submission], Awaitable[None]]
"""Answer the first; keep that for who asks the second. Raises TetherError."""


class Retries:
    """transport: tells who a caller is; now: unix seconds."""

    def __init__(
        self, folder: Path, secret: bytes, transport: Transport, *, now: Callable[[], float]
    ) -> None:
        self._files = SealedFiles(
            folder, partial(dead_input_key, secret), kept_s=KEPT_S, kept_bytes=KEPT_BYTES, now=now
        )
        self._transport = transport
        self.open = self._files.open

    async def keep(self, job: bytes, submission: Submission) -> None:
        """A job died: its input stays here."""
        await self._files.put(job, msgspec.msgpack.encode(submission))

    async def begin(self, caller: PeerId, order: RetryOrder) -> tuple[RetryAnswer, Submission, Submission]:
        """What to try for an order, and what it is a retry of.

        Raises TetherError(FORBIDDEN | INPUT_UNAVAILABLE).
        """
        self._check_is_orchestrator(caller)
        plain = await self._files.get(order.job)
        try:
            original = _DECODER.decode(plain or b"")
        except (msgspec.DecodeError, UnicodeDecodeError):
            detail = "This gateway does not have the input of that job any more."
            raise TetherError(INPUT_UNAVAILABLE, detail) from None
        token = f"retry-{order.job.hex()[:32]}-{uuid.uuid4().hex}"
        job = job_id(original.tenant, token)
        await self.keep(job, original)  # should this node die, the letter of the new job has an input, too
        return RetryAnswer(job), replace(original, idempotency_key=token), original

    async def finish(self, again: Again, order: RetryOrder, answer: RetryAnswer, *tried: Submission) -> None:
        """Try it. What dies again is kept under its new job; everything else needs no input any more."""
        fields = {"job": answer.job.hex(), "retry_of": order.job.hex()}
        try:
            await again(*tried)
        except TetherError as error:
            _log.warning("retry.failed", code=error.code.name, **fields)
        else:
            _log.info("retry.answered", **fields)
            await self._files.remove(answer.job)
        await self._files.remove(order.job)

    def _check_is_orchestrator(self, caller: PeerId) -> None:
        shown = self._transport.admission(caller)
        own = caller == self._transport.peer_id
        if not own and not (isinstance(shown, Member) and "orchestrator" in shown.certificate.roles):
            raise TetherError(FORBIDDEN, "Only an orchestrator may ask a gateway to try a job again.")
