"""Letters in the ledger's own database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2p.wire import decode, encode
from tetherd.dead_letters.letter import Letter
from tetherd.store.database import Database, Script, Statement
from tetherd.store.jobs import span_of


class TableLetters:
    """Implements `Letters`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, letter: Letter) -> bool:
        sql = "INSERT INTO dead_letters VALUES (?, ?, ?) ON CONFLICT (job) DO NOTHING RETURNING job"
        return bool(await self._run(sql, letter.job, letter.ended, encode(letter)))

    async def newest(self, limit: int) -> Sequence[Letter]:
        return await self._letters("ORDER BY ended DESC, job DESC LIMIT ?", limit)

    async def oldest(self, limit: int) -> Sequence[Letter]:
        return await self._letters("ORDER BY ended, job LIMIT ?", limit)

    async def find(self, prefix: str) -> Sequence[Letter]:
        if (span := span_of(prefix)) is None:
            return []
        return await self._letters("WHERE job BETWEEN ? AND ? ORDER BY job LIMIT 10", *span)

    async def drop(self, job: bytes) -> bool:
        return bool(await self._run("DELETE FROM dead_letters WHERE job = ? RETURNING job", job))

    async def forget(self, before: float, most: int) -> None:
        await self._run("DELETE FROM dead_letters WHERE ended < ?", before)
        if (surplus := await self.count() - most) > 0:
            oldest = "SELECT job FROM dead_letters ORDER BY ended, job LIMIT ?"
            await self._run(f"DELETE FROM dead_letters WHERE job IN ({oldest})", surplus)

    async def count(self) -> int:
        ((count,),) = await self._run("SELECT count(*) FROM dead_letters")
        return int(count)

    async def _letters(self, where: str, *values: Any) -> list[Letter]:
        rows = await self._run(f"SELECT letter FROM dead_letters {where}", *values)
        return [decode(row[0], Letter) for row in rows]

    async def _run(self, sql: str, *values: Any) -> Sequence[Sequence[Any]]:
        def script() -> Script[Sequence[Sequence[Any]]]:
            return (yield Statement(sql, values))

        return await self._database.each(script)
