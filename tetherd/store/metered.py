"""Changes of jobs that hold something of a quota, with the books of their subjects, in one transaction.

The accounts are locked first, in the order of their names, then the rows are written as ever by compare-and-set; so
leaders who share a database take turns at a tenant, and never wait in a ring. A row that another leader changed
meanwhile undoes the whole, and the batch is tried anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

import outcome

from p2p.errors import TetherError
from tetherd.quotas.account import Account, admit
from tetherd.store.database import Dialect, Script, SqlRow, Statement, placeholders
from tetherd.store.job_rows import Change, load, write
from tetherd.store.jobs import standing_of
from tetherd.store.protocol import JobRecord

_COLUMNS: Final = tuple(item.name for item in fields(Account))
_values: Final = attrgetter(*_COLUMNS)
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM accounts"


class Overtaken(Exception):
    """Another leader changed one of the rows between reading and writing."""


def metered(
    changes: Sequence[Change], dialect: Dialect
) -> Script[tuple[list[outcome.Outcome[Any]], dict[str, Account]]]:
    """Apply the changes in order, and say what came of each, and how the books stand then.

    Has to run as one transaction. Raises Overtaken.
    """
    known = yield from load({one.job for one in changes})
    held = {name for row, _ in known.values() if row.hold for name in row.hold.subjects}
    asked = {terms.subject for one in changes for terms in one.terms}
    accounts = yield from _lock(held | asked, asked, dialect)
    before = dict(accounts)
    wanted: dict[bytes, tuple[JobRecord, int]] = {}
    outcomes: list[outcome.Outcome[Any]] = []
    for one in changes:
        stored, revision = wanted.get(one.job) or known.get(one.job) or (None, 0)
        try:
            row, answer = one.rule(stored)
            if row is not None and row != stored:
                accounts |= booked(accounts, one, stored, row)
                wanted[one.job] = row, revision
        except TetherError as refusal:
            outcomes.append(outcome.Error(refusal))
        else:
            outcomes.append(outcome.Value(answer))
    if (yield from write(wanted)):
        raise Overtaken
    yield from _save([account for account in accounts.values() if account != before[account.subject]])
    return outcomes, accounts


def booked(
    accounts: dict[str, Account], change: Change, stored: JobRecord | None, row: JobRecord
) -> dict[str, Account]:
    """The accounts that change with the row. Raises TetherError(RATE_LIMITED | QUOTA_EXCEEDED)."""
    terms = {one.subject: one.limits for one in change.terms}
    earlier, later = standing_of(stored), standing_of(row)
    after: dict[str, Account] = {}
    for name in row.hold.subjects if row.hold else ():
        account = accounts.get(name)
        if account is None:  # the books of a ledger that only has a copy of this row
            continue
        if (limits := terms.get(name)) is None:
            after[name] = account.posted(earlier, later)
        else:
            current = account.at(limits, change.now)
            after[name] = admit(current, limits, earlier, later, first=stored is None)
    return after


def read_accounts(subjects: Sequence[str]) -> Script[list[Account]]:
    if not subjects:
        return []
    where = f"WHERE subject IN ({placeholders(len(subjects))}) ORDER BY subject"
    rows = yield Statement(f"{_SELECT} {where}", sorted(subjects))
    return [_account(row) for row in rows]


def _lock(subjects: set[str], needed: set[str], dialect: Dialect) -> Script[dict[str, Account]]:
    if not subjects:
        return {}
    names = sorted(subjects)
    locked = " FOR UPDATE" if dialect == "postgresql" else ""
    every = f"{_SELECT} WHERE subject IN ({placeholders(len(names))}) ORDER BY subject{locked}"
    rows = yield Statement(every, names)
    found = {account.subject: account for account in map(_account, rows)}
    if missing := sorted(needed - found.keys()):
        yield _insert([Account(name) for name in missing], "NOTHING")
        rows = yield Statement(every, names)
        found = {account.subject: account for account in map(_account, rows)}
    return found


def _save(accounts: Iterable[Account]) -> Script[None]:
    rows = sorted(accounts, key=lambda account: account.subject)
    if rows:
        change = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[1:])
        yield _insert(rows, f"UPDATE SET {change}")


def _insert(accounts: Sequence[Account], otherwise: str) -> Statement:
    one = f"({placeholders(len(_COLUMNS))})"
    sql = (
        f"INSERT INTO accounts ({', '.join(_COLUMNS)}) VALUES {', '.join([one] * len(accounts))} "
        f"ON CONFLICT (subject) DO {otherwise}"
    )
    return Statement(sql, [value for account in accounts for value in _values(account)])


def _account(row: SqlRow) -> Account:
    return Account(*row)
