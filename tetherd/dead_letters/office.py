"""An orchestrator's dead letter office: takes letters in, refuses what killed several workers, asks for retries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
import trio

from p2p.errors import FIELD_INVALID, INPUT_QUARANTINED, INPUT_UNAVAILABLE, NOT_FOUND, TetherError
from p2p.identity import PeerId
from tetherd.dead_letters.letter import Letter, letter_of, shape
from tetherd.dead_letters.quarantine import Quarantine
from tetherd.dead_letters.shelf import LetterMetrics, NoMetrics, Shelf
from tetherd.store.protocol import JobRecord

LOOK_S: Final = 5.0
"""How late another orchestrator's letters are known here."""
LOOKED_AT: Final = 200
Retry = Callable[[PeerId, bytes], Awaitable[bytes]]
"""Ask a gateway to try a job's input again; returns the new job."""
_log: Final = structlog.get_logger()


class Office:
    """now: ledger seconds."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        now: Callable[[], float],
        metrics: LetterMetrics = NoMetrics(),  # noqa: B008 it keeps nothing
    ) -> None:
        self._shelf = shelf
        self._now = now
        self._metrics = metrics
        self._quarantine = Quarantine()

    async def run(self) -> None:
        """Keep the shelf tidy, and learn what others wrote, until cancelled."""
        while True:
            try:
                for letter in await self._shelf.newest(LOOKED_AT):
                    self._learn(letter)
                await self._shelf.tidy()
            except TetherError as error:
                _log.warning("dead_letters.away", detail=error.detail)
            self._metrics.quarantined(self._quarantine.held(self._now()))
            await trio.sleep(LOOK_S)

    async def bury(self, row: JobRecord, input_digest: bytes = b"") -> None:
        """Keep the letter of a dead row; again is no harm. Raises TetherError(LEDGER_UNAVAILABLE)."""
        letter = letter_of(row, input_digest)
        await self._shelf.add(letter)
        self._learn(letter)

    def check(self, input_digest: bytes) -> None:
        """Raises TetherError(INPUT_QUARANTINED) for an input that killed several workers."""
        wait_s = self._quarantine.wait_s(input_digest, self._now()) if input_digest else None
        if wait_s is not None:
            detail = "Several workers died of this request; no other one is given it for now."
            raise TetherError(INPUT_QUARANTINED, detail, retry_after_s=wait_s)

    # ── For the operator ─────────────────────────────────────────────────────────────────────────────────────────

    async def letters(self, limit: int) -> list[dict[str, Any]]:
        return [shape(letter) for letter in await self._shelf.newest(limit)]

    async def show(self, prefix: str) -> dict[str, Any]:
        """Raises TetherError(NOT_FOUND | FIELD_INVALID)."""
        return shape(await self._only(prefix))

    async def drop(self, prefix: str) -> dict[str, Any]:
        """Raises as show does, and LEDGER_UNAVAILABLE."""
        letter = await self._only(prefix)
        await self._shelf.drop(letter.job)
        _log.info("dead_letter.dropped", job=letter.job.hex())
        return shape(letter)

    async def retry(self, prefix: str, ask: Retry) -> dict[str, Any]:
        """A new job for the same input, on the gateway that holds it; the letter goes once that has taken it over.

        Raises as drop does, and INPUT_UNAVAILABLE.
        """
        letter = await self._only(prefix)
        try:
            job = await ask(letter.gateway, letter.job)
        except TetherError as error:
            if error.code is INPUT_UNAVAILABLE or not error.code.retryable:
                raise
            detail = f"The gateway {letter.gateway} that has the input does not answer."
            raise TetherError(INPUT_UNAVAILABLE, detail) from error
        await self._shelf.drop(letter.job)
        _log.info("dead_letter.retried", job=job.hex(), retry_of=letter.job.hex())
        return {"job": job.hex(), "retryOf": letter.job.hex()}

    async def _only(self, prefix: str) -> Letter:
        found = await self._shelf.find(prefix)
        if not found:
            raise TetherError(NOT_FOUND, f"There is no dead letter {prefix}.")
        if len(found) > 1:
            raise TetherError(FIELD_INVALID, f"{len(found)} dead letters begin with {prefix}.", field="job")
        return found[0]

    def _learn(self, letter: Letter) -> None:
        if self._quarantine.learn(letter):
            _log.error(
                "input.quarantined", job=letter.job.hex(), tenant=letter.tenant, trace_id=letter.trace_id
            )
