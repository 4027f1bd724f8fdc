"""Tenants, their keys and limits in the ledger: the rules of tetherd.tenants.register, kept in its tables.

Whoever changes the register takes its one row first, so leaders who share a database take turns, and the revisions that
they hand out are committed in their order: who has read up to one has missed nothing before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
import trio
from msgspec.structs import fields, replace

from p2p.errors import OUT_OF_RANGE, TetherError
from tetherd.quotas.limits import Limits
from tetherd.quotas.policies import Policy
from tetherd.store.database import Database, Script, SqlRow, Statement, placeholders
from tetherd.tenants.keys import prefix_of
from tetherd.tenants.register import MAX_KEYS, MAX_TENANTS, ApiKey, Records, Register, Tenant

USED_EVERY_S: Final = 60.0
"""How exact a key's last use is kept."""
AT_ONCE: Final = 500
"""Rows a statement; both databases take 32,000 values."""

_LIMITS: Final = tuple(one.name for one in fields(Limits))
_TENANT: Final = ("tenant", "name", "created", "changed", "disabled")
_KEY: Final = ("key_id", "tenant", "hash", "created", "changed", "scopes", "expires", "revoked", "last_used")
_SCOPES: Final = msgspec.json.Decoder(tuple[str, ...])
_POLICY: Final = msgspec.json.Decoder(Policy)


@dataclass(frozen=True, slots=True)
class Changes:
    """What was changed after a revision, and up to which one."""

    revision: int
    records: Records


class RegisterTable(Protocol):
    """Both drivers'. Every method raises TetherError(LEDGER_UNAVAILABLE), and has committed when it returns."""

    async def changes(self, after: int = 0) -> Changes:
        """0: the whole register."""
        ...

    async def join(self, records: Records) -> None:
        """Join these with what is there. Raises TetherError(OUT_OF_RANGE | FORBIDDEN), and has changed nothing then."""
        ...

    async def used(self, dates: Mapping[str, float]) -> None:
        """When keys were used last, by id; kept at most once in USED_EVERY_S of each, whoever says it."""
        ...


class MemoryRegister:
    """Forgets at the end."""

    def __init__(self) -> None:
        self._register = Register()
        self._revision = 0

    async def changes(self, after: int = 0) -> Changes:
        await trio.lowlevel.checkpoint()
        return Changes(self._revision, self._register.records() if after < self._revision else Records())

    async def join(self, records: Records) -> None:
        await trio.lowlevel.checkpoint()
        joined = self._register.joined(records.tenants, records.keys, records.policies)
        if joined != self._register:
            self._register, self._revision = joined, self._revision + 1

    async def used(self, dates: Mapping[str, float]) -> None:
        keys = self._register.keys
        late = [
            replace(keys[one], last_used=date)
            for one, date in dates.items()
            if one in keys and date - (keys[one].last_used or 0.0) >= USED_EVERY_S
        ]
        await self.join(Records(keys=tuple(late)))


class SqlRegister:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def changes(self, after: int = 0) -> Changes:
        return await self._database.each(lambda: _changes(after))

    async def join(self, records: Records) -> None:
        if records != Records():
            await self._database.transact(lambda: _join(records))

    async def used(self, dates: Mapping[str, float]) -> None:
        if dates:
            await self._database.transact(lambda: _used(dates))


def _changes(after: int) -> Script[Changes]:
    ((revision,),) = yield Statement("SELECT revision FROM register")
    if revision <= after:
        return Changes(after, Records())
    tenants = yield from _tenants("revision > ?", after)
    keys = yield from _keys("revision > ?", after)
    policies = yield from _policies("revision > ?", after)
    return Changes(int(revision), Records(tuple(tenants), tuple(keys), tuple(policies)))


def _join(records: Records) -> Script[None]:
    revision = yield from _next_revision()
    tenants, keys = [one.tenant for one in records.tenants], [one.key_id for one in records.keys]
    known_tenants: list[Tenant] = []
    known_keys: list[ApiKey] = []
    for some in _in_parts(tenants):
        known_tenants += yield from _tenants(f"tenant IN ({placeholders(len(some))})", *some)
    for some in _in_parts(keys):
        known_keys += yield from _keys(f"key_id IN ({placeholders(len(some))})", *some)
    known_policies = (yield from _policies("revision > ?", -1)) if records.policies else []
    there = Register().joined(known_tenants, known_keys, known_policies)
    joined = there.joined(records.tenants, records.keys, records.policies)
    new_tenants = [one for name, one in joined.tenants.items() if there.tenants.get(name) != one]
    new_keys = [one for key_id, one in joined.keys.items() if there.keys.get(key_id) != one]
    yield from _write(
        "tenants", (*_TENANT, "revision"), [(*_tenant_row(one), revision) for one in new_tenants]
    )
    rows = [(*_key_row(one), prefix_of(one.tenant, one.key_id), revision) for one in new_keys]
    yield from _write("api_keys", (*_KEY, "prefix", "revision"), rows)
    limits = {f"tenant:{one.tenant}": one.limits for one in new_tenants}
    limits |= {f"key:{one.key_id}": one.limits for one in new_keys}
    said = [(subject, *msgspec.structs.astuple(one)) for subject, one in limits.items() if one != Limits()]
    for some in _in_parts([subject for subject, one in limits.items() if one == Limits()]):
        yield Statement(f"DELETE FROM limits WHERE subject IN ({placeholders(len(some))})", some)
    yield from _write("limits", ("subject", *_LIMITS), said)
    new_policies = [one for name, one in joined.policies.items() if there.policies.get(name) != one]
    for one in new_policies:
        yield Statement(
            "INSERT INTO policies VALUES (?, ?, ?, ?, ?) ON CONFLICT (model, tenant) DO UPDATE SET "
            "changed = excluded.changed, said = excluded.said, revision = excluded.revision",
            (one.model, one.tenant, one.changed, msgspec.json.encode(one).decode(), revision),
        )
    ((many_tenants, many_keys),) = yield Statement(
        "SELECT (SELECT count(*) FROM tenants), (SELECT count(*) FROM api_keys)"
    )
    if many_tenants > MAX_TENANTS or many_keys > MAX_KEYS:
        raise TetherError(OUT_OF_RANGE, f"At most {MAX_TENANTS} tenants and {MAX_KEYS} keys are kept.")


def _used(dates: Mapping[str, float]) -> Script[None]:
    revision = yield from _next_revision()
    for key_id, date in sorted(dates.items()):
        yield Statement(
            "UPDATE api_keys SET last_used = ?, revision = ? "
            "WHERE key_id = ? AND (last_used IS NULL OR last_used <= ?)",
            (date, revision, key_id, date - USED_EVERY_S),
        )


def _next_revision() -> Script[int]:
    ((revision,),) = yield Statement("UPDATE register SET revision = revision + 1 RETURNING revision")
    return int(revision)


def _tenants(where: str, *values: Any) -> Script[list[Tenant]]:
    columns = ", ".join([*_TENANT, *_LIMITS])
    rows = yield Statement(
        f"SELECT {columns} FROM tenants LEFT JOIN limits ON subject = 'tenant:' || tenant WHERE {where}",
        values,
    )
    return [
        Tenant(*row[:4], disabled=bool(row[4]), limits=_limits(row[len(_TENANT) :]))  # type: ignore[misc]
        for row in rows
    ]


def _keys(where: str, *values: Any) -> Script[list[ApiKey]]:
    columns = ", ".join([*_KEY, *_LIMITS])
    rows = yield Statement(
        f"SELECT {columns} FROM api_keys LEFT JOIN limits ON subject = 'key:' || key_id WHERE {where}", values
    )
    return [_key(row) for row in rows]


def _policies(where: str, *values: Any) -> Script[list[Policy]]:
    rows = yield Statement(f"SELECT said FROM policies WHERE {where}", values)
    return [_POLICY.decode(row[0]) for row in rows]


def _key(row: SqlRow) -> ApiKey:
    key_id, tenant, digest, created, changed, scopes, expires, revoked, last_used = row[: len(_KEY)]
    return ApiKey(
        key_id,
        tenant,
        bytes(digest),
        created,
        changed,
        _SCOPES.decode(scopes),
        expires,
        revoked,
        last_used,
        _limits(row[len(_KEY) :]),
    )


def _limits(values: SqlRow) -> Limits:
    """A subject without a row has none: only then there is no weight."""
    return Limits() if values[-1] is None else Limits(*values)


def _tenant_row(one: Tenant) -> Sequence[Any]:
    return one.tenant, one.name, one.created, one.changed, int(one.disabled)


def _key_row(one: ApiKey) -> Sequence[Any]:
    scopes = msgspec.json.encode(one.scopes).decode()
    dates = one.expires, one.revoked, one.last_used
    return one.key_id, one.tenant, one.hash, one.created, one.changed, scopes, *dates


def _write(table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Script[None]:
    """columns: the primary key first."""
    one = f"({placeholders(len(columns))})"
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
    for some in _in_parts(list(rows)):
        yield Statement(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([one] * len(some))} "
            f"ON CONFLICT ({columns[0]}) DO UPDATE SET {changed}",
            [value for row in some for value in row],
        )


def _in_parts(rows: Sequence[Any]) -> list[Sequence[Any]]:
    return [rows[at : at + AT_ONCE] for at in range(0, len(rows), AT_ONCE)]
