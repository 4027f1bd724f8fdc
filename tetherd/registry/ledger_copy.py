"""The catalogue in the ledger's database: what a region's orchestrators know, whichever of them is started anew.

Only signed documents are kept there, and each is checked again when it is read: whoever tampers with the database can
withhold a model, and change none. Which of two documents of one name counts, the catalogue's rules say, the same way
on every orchestrator; nothing is deleted, since a revoked publisher's documents are worth nothing anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, Protocol

import structlog
import trio

from p2p.errors import LEDGER_UNAVAILABLE, TetherError
from tetherd.registry.catalogue import MAX_RELEASES, MAX_WORDS, Catalogue
from tetherd.store.database import Database, Result, Script, Statement

COMPARE_S: Final = 60.0
"""How soon what another orchestrator wrote is read here; what is new here is written at once."""
PAUSE_S: Final = 1.0
"""News that come together are one write."""
MAX_BODY_BYTES: Final = 2 << 20
MAX_DOCUMENTS: Final = MAX_WORDS + 2 * MAX_RELEASES

_UPSERT: Final = (
    "INSERT INTO catalogue VALUES (?, ?, ?) "
    "ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, body = excluded.body"
)
_log: Final = structlog.get_logger()


class Reading(Protocol):
    """A replica's reports, or the database itself."""

    async def each(self, make: Callable[[], Script[Result]]) -> Result: ...


class LedgerCopy:
    """Keeps a catalogue and the table of a database alike. reading: where the table is listed and read."""

    def __init__(self, catalogue: Catalogue, database: Database, reading: Reading) -> None:
        self._catalogue = catalogue
        self._database = database
        self._reading = reading
        self._seen: dict[str, str] = {}
        """What the table has, by name: read once, whether the catalogue wanted it or not."""

    async def run(self) -> None:
        """Until cancelled. While the database is away the catalogue does without it."""
        away = False
        while True:
            try:
                await self.agree()
                away = False
            except TetherError as error:
                if error.code is not LEDGER_UNAVAILABLE:
                    raise
                if not away:
                    _log.warning("catalogue.ledger_away", detail=error.detail)
                away = True
            with trio.move_on_after(COMPARE_S):
                await self._catalogue.changed()
            await trio.sleep(PAUSE_S)

    async def agree(self) -> None:
        """Read what is unknown here, then write what is unknown there. Raises TetherError(LEDGER_UNAVAILABLE)."""
        table = await self._reading.each(_list)
        here = self._digests()
        for name, digest in table.items():
            if here.get(name) != digest != self._seen.get(name):
                await self._read(name)
        self._seen = table
        for name, body in self._catalogue.documents().items():
            if table.get(name) != (digest := _digest(body)):
                await self._write(name, digest, body)

    async def _read(self, name: str) -> None:
        body = await self._reading.each(lambda: _body(name))
        try:
            if body is not None:
                self._catalogue.add_document(name, body)
        except TetherError as error:
            _log.warning("catalogue.refused_from_ledger", name=name[:200], cause=str(error)[:200])

    def _digests(self) -> dict[str, str]:
        return {name: _digest(body) for name, body in self._catalogue.documents().items()}

    async def _write(self, name: str, digest: str, body: bytes) -> None:
        def script() -> Script[None]:
            yield Statement(_UPSERT, (name, digest, body))

        await self._database.each(script)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _list() -> Script[dict[str, str]]:
    """Words first: what was revoked is not to be read as good."""
    words_first = "name LIKE '%.word' DESC, name"
    rows = yield Statement(
        f"SELECT name, digest FROM catalogue ORDER BY {words_first} LIMIT ?", (MAX_DOCUMENTS,)
    )
    return {str(name): str(digest) for name, digest in rows}


def _body(name: str) -> Script[bytes | None]:
    rows = yield Statement(
        "SELECT body FROM catalogue WHERE name = ? AND length(body) <= ?", (name, MAX_BODY_BYTES)
    )
    return bytes(rows[0][0]) if rows else None
