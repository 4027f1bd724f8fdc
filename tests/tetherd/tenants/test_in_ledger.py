"""The register in the ledger: one contract over memory, SQLite and PostgreSQL, and what desks make of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from p2p.errors import FORBIDDEN, OUT_OF_RANGE, TetherError
from p2p.identity import PeerId
from tests.servers.postgres import PostgresServer
from tests.tetherd.tenants.test_register import PLAIN
from tetherd.data_dir import DataDir
from tetherd.quotas.limits import Limits
from tetherd.store import MemoryStore, SqliteDatabase, SqlStore, Store, open_postgres
from tetherd.store import register as tables
from tetherd.tenants.desk import MemoryKeeper, TenantDesk
from tetherd.tenants.keys import read_key
from tetherd.tenants.register import ApiKey, Records, Register, Tenant

GATEWAY = PeerId("12D3gateway")
ACME = Tenant("acme", "Acme Ltd", 1.0, 1.0, limits=Limits(requests_per_minute=60, weight=3))
KEY = ApiKey("0123456789ab", "acme", b"h" * 32, 1.0, 1.0, ("infer",), expires=500.0)


@pytest.fixture(params=("memory", "sqlite", "postgresql"))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store: Store
    if request.param == "memory":
        store = MemoryStore()
    elif request.param == "sqlite":
        store = SqlStore(SqliteDatabase(tmp_path / "ledger.db"))
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        store = SqlStore(await open_postgres(server.new_database(), size=2))
    yield store
    await store.close()


def desk_of(clock: float = 1_000.0, keeper: DataDir | None = None) -> TenantDesk:
    return TenantDesk(keeper or MemoryKeeper(), now=lambda: clock)


async def whole(store: Store) -> Register:
    return Register.of((await store.register.changes()).records)


# ── The table ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_joined_is_read_whole(store: Store) -> None:
    limited = replace(KEY, limits=Limits(tokens_per_month=1 << 49, budget=12_500_000))
    await store.register.join(Records((ACME,), (limited,)))
    assert (await store.register.changes()).records == Records((ACME,), (limited,))


async def test_only_what_changed_after_a_revision_is_read_again(store: Store) -> None:
    await store.register.join(Records((ACME,), (KEY,)))
    first = await store.register.changes()
    assert (await store.register.changes(first.revision)).records == Records()
    beta = Tenant("beta", "", 2.0, 2.0)
    await store.register.join(Records((beta,)))
    later = await store.register.changes(first.revision)
    assert later.revision > first.revision and beta in later.records.tenants


async def test_of_two_changes_the_later_one_stays_and_a_revoked_key_stays_revoked(store: Store) -> None:
    await store.register.join(Records((replace(ACME, changed=5.0, disabled=True, limits=Limits()),)))
    await store.register.join(Records((ACME,), (replace(KEY, revoked=3.0),)))
    await store.register.join(Records((), (replace(KEY, changed=9.0),)))
    kept = await whole(store)
    assert kept.tenants["acme"].disabled and kept.tenants["acme"].limits == Limits()
    assert kept.keys[KEY.key_id].revoked == 3.0


async def test_a_limit_that_is_taken_off_is_gone(store: Store) -> None:
    await store.register.join(Records((ACME,)))
    await store.register.join(Records((replace(ACME, changed=2.0, limits=Limits()),)))
    assert (await whole(store)).tenants["acme"].limits == Limits()


async def test_another_key_under_a_known_id_changes_nothing(store: Store) -> None:
    await store.register.join(Records((ACME,), (KEY,)))
    with pytest.raises(TetherError) as caught:
        await store.register.join(Records((), (replace(KEY, hash=b"x" * 32, changed=9.0),)))
    assert caught.value.code is FORBIDDEN
    assert (await whole(store)).keys[KEY.key_id] == KEY


async def test_a_register_beyond_its_bounds_is_refused_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(store, MemoryStore):
        monkeypatch.setattr("tetherd.tenants.register.MAX_TENANTS", 2)
    monkeypatch.setattr(tables, "MAX_TENANTS", 2)
    await store.register.join(Records((ACME, Tenant("beta", "", 1.0, 1.0))))
    with pytest.raises(TetherError) as caught:
        await store.register.join(Records((Tenant("gamma", "", 1.0, 1.0),)))
    assert caught.value.code is OUT_OF_RANGE
    assert sorted((await whole(store)).tenants) == ["acme", "beta"]


async def test_the_last_use_is_kept_at_most_once_a_minute(store: Store) -> None:
    await store.register.join(Records((ACME,), (KEY,)))
    seen = []
    for at in (1_000.0, 1_059.0, 990.0, 1_060.0):
        await store.register.used({KEY.key_id: at, "unknown": at})
        seen.append((await whole(store)).keys[KEY.key_id].last_used)
    assert seen == [1_000.0, 1_000.0, 1_000.0, 1_060.0]


async def test_many_keys_go_in_parts(store: Store) -> None:
    keys = tuple(replace(KEY, key_id=f"{number:012x}") for number in range(1_203))
    await store.register.join(Records((ACME,), keys))
    assert len((await whole(store)).keys) == 1_203


# ── Desks over it ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_two_leaders_over_one_ledger_see_each_others_changes(store: Store) -> None:
    one, other = desk_of(), desk_of()
    for desk in (one, other):
        await desk.move_into(store.register)
    await one.create_tenant("acme", "Acme Ltd")
    made = await one.create_key("acme")
    await other.refresh()
    proof = read_key(made["key"])
    await other.admit(proof.sign(PLAIN, GATEWAY), GATEWAY)
    await other.refresh()
    await one.refresh()
    assert one.keys()[0]["lastUsed"] == 1_000.0
    await other.revoke_key(made["keyId"])
    await one.refresh()
    with pytest.raises(TetherError):
        await one.admit(proof.sign(PLAIN, GATEWAY), GATEWAY)


async def test_leaders_that_change_at_the_same_time_lose_nothing(store: Store) -> None:
    desks = [desk_of() for _ in range(4)]
    for desk in desks:
        await desk.move_into(store.register)

    async def work(desk: TenantDesk, name: str) -> None:
        await desk.create_tenant(name, "")
        await desk.create_key(name)

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(work, desks[number % 4], f"tenant-{number}")
    for desk in desks:
        await desk.refresh()
        assert len(desk.register.tenants) == len(desk.register.keys) == 12
    assert len({desk.register.digest() for desk in desks}) == 1


async def test_a_register_on_the_disk_is_carried_over_and_joined(store: Store, tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    old = desk_of(keeper=data)
    await old.create_tenant("acme", "")
    key = (await old.create_key("acme"))["keyId"]
    await store.register.join(Records((Tenant("beta", "", 1.0, 1.0),)))
    new = desk_of(keeper=data)
    await new.move_into(store.register)
    assert sorted((await whole(store)).tenants) == sorted(new.register.tenants) == ["acme", "beta"]
    assert key in (await whole(store)).keys


async def test_a_ledger_that_was_lost_begins_with_who_was_known(store: Store, tmp_path: Path) -> None:
    desk = desk_of(keeper=DataDir(tmp_path))
    await desk.move_into(store.register)
    await desk.create_tenant("acme", "")
    again, empty = desk_of(keeper=DataDir(tmp_path)), MemoryStore()
    await again.move_into(empty.register)
    assert list((await whole(empty)).tenants) == ["acme"]
