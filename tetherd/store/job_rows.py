"""The jobs table in SQL, written once for both databases.

A row is changed by compare-and-set on its revision, so that leaders who share a database need no locks: whoever comes
second reads what the first one wrote, and asks the rules of jobs.py again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec
import outcome

from p2p.errors import TetherError
from tetherd.quotas.hold import Hold
from tetherd.store.database import Script, SqlRow, Statement, placeholders
from tetherd.store.jobs import standing_of
from tetherd.store.protocol import AttemptRecord, JobRecord, Terms

_Result = TypeVar("_Result")

COLUMNS: Final = tuple(item.name for item in fields(JobRecord))
SELECT: Final = f"SELECT {', '.join(COLUMNS)}, revision FROM jobs"
_ENCODER: Final = msgspec.json.Encoder()
_JSON: Final[dict[int, msgspec.json.Decoder[Any]]] = {
    COLUMNS.index("attempts"): msgspec.json.Decoder(tuple[AttemptRecord, ...]),
    COLUMNS.index("hold"): msgspec.json.Decoder(Hold | None),
    COLUMNS.index("receipts"): msgspec.json.Decoder(tuple[bytes, ...]),
}
"""What is read and written with its job, and never asked for by itself."""

Rule = Callable[[JobRecord | None], tuple[JobRecord | None, Any]]
"""From the stored row to the one to write, None for none, and what to answer. May raise TetherError."""


@dataclass(frozen=True, slots=True)
class Change:
    """fresh: the row is hardly there yet, so it is written first and read only if it was.

    terms, now: what a claim has to keep within; copied: another ledger's row, which changes no books here.
    """

    job: bytes
    rule: Rule
    fresh: bool = False
    terms: tuple[Terms, ...] = ()
    now: float = 0.0
    copied: bool = False


class Metered(Exception):
    """The answer for a change that has to go through the books, and has not been made."""


def change(changes: Sequence[Change]) -> Script[list[outcome.Outcome[Any]]]:
    """Apply the changes in order, and say what came of each; every statement is a whole."""
    outcomes: dict[int, outcome.Outcome[Any]] = {}
    todo = range(len(changes))
    known = yield from load({one.job for one in changes if not one.fresh})
    while todo:
        wanted: dict[bytes, tuple[JobRecord, int]] = {}
        for index in todo:
            job = changes[index].job
            stored, revision = wanted.get(job) or known.get(job) or (None, 0)
            result = outcome.capture(changes[index].rule, stored)
            if isinstance(result, outcome.Error):
                if not isinstance(result.error, TetherError):
                    raise result.error
                outcomes[index] = result
                continue
            row, answer = result.unwrap()
            if row is not None and not changes[index].copied and standing_of(stored) != standing_of(row):
                outcomes[index] = outcome.Error(Metered())
                continue
            outcomes[index] = outcome.Value(answer)
            if row is not None and row != stored:
                wanted[job] = row, revision
        lost = yield from write(wanted)
        todo = [index for index in todo if changes[index].job in lost]  # type: ignore[assignment]
        known = yield from load(lost)
    return [outcomes[index] for index in range(len(changes))]


def select(where: str, *values: Any) -> Script[list[JobRecord]]:
    rows = yield Statement(f"{SELECT} {where}", values)
    return [record(row) for row in rows]


def record(row: SqlRow) -> JobRecord:
    values = list(row[:-1])
    for index, decoder in _JSON.items():
        values[index] = decoder.decode(values[index])
    return JobRecord(*values)


def load(wanted: Iterable[bytes]) -> Script[dict[bytes, tuple[JobRecord, int]]]:
    ids = sorted(wanted)
    if not ids:
        return {}
    ids += ids[-1:] * (_padded(len(ids)) - len(ids))
    rows = yield Statement(f"{SELECT} WHERE job IN ({placeholders(len(ids))})", ids)
    return {found.job: (found, row[-1]) for row in rows for found in (record(row),)}


def write(wanted: dict[bytes, tuple[JobRecord, int]]) -> Script[set[bytes]]:
    """Returns the jobs whose row is not what it was taken for. Sorted, so that two leaders never wait in a ring."""
    if not wanted:
        return set()
    values: list[Any] = []
    for job in sorted(wanted):
        row, revision = wanted[job]
        values += _values(row, revision + 1)
    written = yield Statement(_upsert(len(wanted)), values)
    return wanted.keys() - {row[0] for row in written}


@lru_cache(maxsize=128)
def _upsert(rows: int) -> str:
    every = (*COLUMNS, "revision")
    one = f"({placeholders(len(every))})"
    change = ", ".join(f"{name} = excluded.{name}" for name in every[1:])
    return (
        f"INSERT INTO jobs ({', '.join(every)}) VALUES {', '.join([one] * rows)} "
        f"ON CONFLICT (job) DO UPDATE SET {change} WHERE jobs.revision = excluded.revision - 1 RETURNING job"
    )


def _values(row: JobRecord, revision: int) -> list[Any]:
    values = [getattr(row, name) for name in COLUMNS]
    for index in _JSON:
        values[index] = _ENCODER.encode(values[index]).decode()
    return [*values, revision]


def _padded(count: int) -> int:
    """The next power of two: few different statements, so that each stays prepared."""
    return 1 << (count - 1).bit_length()
