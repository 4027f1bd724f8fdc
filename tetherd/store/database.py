"""The seam between SQL that is written once and the databases that run it.

A transaction is a script: a generator that yields statements and is sent their rows. It knows neither threads nor
loops, so a driver runs the whole of it where its connection lives, and scripts are composed with `yield from`.

    def rename(job: bytes, model: str) -> Script[bool]:
        rows = yield Statement("UPDATE jobs SET model = ? WHERE job = ? RETURNING job", (model, job))
        return bool(rows)

SQL is what SQLite 3.35 and PostgreSQL 13 both understand, placeholders are `?`, and a `?` stands nowhere else.
Statements that return nothing are sent no rows; those who want to know what changed ask with RETURNING.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

Result = TypeVar("Result")
Dialect = Literal["sqlite", "postgresql"]
SqlRow = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. values: for its placeholders, in order; None, bool, int, float, str or bytes."""

    sql: str
    values: Sequence[Any] = ()


Script = Generator[Statement, Sequence[SqlRow], Result]


class Database(Protocol):
    """One database, used by any number of tasks.

    Both ways to run a script raise what it raises, and TetherError(LEDGER_UNAVAILABLE) when the database is away,
    full, too slow or broken: nothing has changed then, unless the connection broke in the very commit.
    make: called anew for every try.
    """

    @property
    def dialect(self) -> Dialect: ...

    async def transact(self, make: Callable[[], Script[Result]]) -> Result:
        """Run a script as one transaction, which is durable when this returns. Whatever it raises undoes it."""
        ...

    async def each(self, make: Callable[[], Script[Result]]) -> Result:
        """Run a script whose statements are each a whole: a driver may commit them one by one, and save the rest."""
        ...

    def now(self) -> float:
        """Unix seconds by the clock of the database's machine."""
        ...

    async def close(self) -> None:
        """Wait for what is under way. The database must not be used again."""
        ...


def placeholders(count: int) -> str:
    return ", ".join("?" * count)
