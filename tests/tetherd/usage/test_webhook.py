"""The usage webhook: signed, at least once under one id, for as long as it makes sense, whatever dies."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import CONFIG_INVALID, TetherError
from tests.servers.hook import HANG, HookServer, hook_server
from tests.servers.postgres import PostgresServer
from tests.sources import ROOT
from tests.tetherd.store.rows import attempt, job, settle
from tests.tetherd.usage.test_export import ROW
from tetherd.config import UsageConfig
from tetherd.store import SqliteDatabase, SqlStore, open_postgres
from tetherd.store.outbox import HOOK_FORGOTTEN_S, Backlog, Outbox
from tetherd.usage import delivery as shell
from tetherd.usage.delivery import DAY_S, Delivery, Hook, read_hook
from tetherd.usage.webhook import MAX_PAUSE_S, body_of, headers_of, pause_s, read_secret

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
FINAL = 200.0
"""When what ended at 110 is final."""


class Clock:
    now = FINAL

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=("sqlite", "postgresql"))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    if request.param == "sqlite":
        store = SqlStore(SqliteDatabase(tmp_path / "ledger.db"))
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        store = SqlStore(await open_postgres(server.new_database(), size=3))
    yield store
    await store.close()


async def end_jobs(store: SqlStore, *numbers: int) -> list[str]:
    """Jobs that are settled and not swept yet; returns the ids that their events will have."""
    names = []
    for number in numbers:
        row = await store.claim(job(number), attempt(), now=100.0)
        await settle(store, row)
        names.append(f"usage_{row.job.hex()}")
    return names


async def deliver_until(
    hook: HookServer, store: SqlStore, clock: Clock, done: Callable[[Backlog], bool], *, days: float = 7.0
) -> None:
    """Run a delivery, an hour passing at each look, until the backlog is as wanted."""
    outbox = Outbox(store.database)
    delivery = Delivery(
        Hook(hook.url, read_secret(SECRET), days), outbox, now=clock, wall=lambda: 1_700_000_000.0
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(delivery.run)
        with trio.fail_after(30):
            while True:
                await store.sweep(now=clock())
                if done(await outbox.backlog()):
                    break
                clock.now += MAX_PAUSE_S
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "LOOK_S", 0.02)
    monkeypatch.setattr(shell, "MAX_SLOW_S", 0.05)


def is_signed(headers: dict[str, str], body: bytes) -> bool:
    """As a receiver checks it, by the specification alone."""
    said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    wanted = base64.b64encode(hmac.new(key, said, hashlib.sha256).digest()).decode()
    return f"v1,{wanted}" in headers["webhook-signature"].split(" ")


# ── Pure ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_signature_is_that_of_the_specifications_own_example() -> None:
    from tetherd.usage.webhook import sign

    secret = read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_changed_body_id_or_time_is_not_signed() -> None:
    body = body_of(ROW)
    headers = headers_of(ROW, body, read_secret(SECRET), 1_700_000_000.0)
    assert is_signed(headers, body)
    assert not is_signed(headers, body + b" ")
    assert not is_signed({**headers, "webhook-id": "usage_00"}, body)
    assert not is_signed({**headers, "webhook-timestamp": "1700000001"}, body)


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_c2hvcnQ=", "a" * 44, "whsec_" + "é" * 40])
def test_a_weak_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(TetherError) as caught:
        read_secret(text)
    assert caught.value.code is CONFIG_INVALID
    assert len(text) < 10 or text not in caught.value.message
    assert "k" * 8 not in repr(read_secret(SECRET))


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_pauses_grow_and_are_bounded(tries: int, drawn: float) -> None:
    assert 2.5 <= pause_s(tries, drawn) <= MAX_PAUSE_S
    assert pause_s(tries, drawn) <= pause_s(tries + 1, drawn)


def test_the_embedded_ledger_asks_for_postgresql_and_a_secrets_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    config = UsageConfig(webhook="https://billing.example", webhook_secret_file=file)
    found = read_hook(config, shared=True)
    assert found is not None and found.secret == read_secret(SECRET)
    with pytest.raises(TetherError) as caught:
        read_hook(config, shared=False)
    assert "--store postgresql://" in caught.value.detail
    assert read_hook(UsageConfig(), shared=False) is None


# ── Delivered ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_bill_is_one_signed_event(store: SqlStore) -> None:
    with hook_server() as hook:
        names = await end_jobs(store, 1, 2, 3)
        await Outbox(store.database).open(FINAL)
        await deliver_until(
            hook, store, Clock(), lambda backlog: len(hook.received) == 3 and not backlog.waiting
        )
    assert sorted(one.name for one in hook.received) == names
    assert all(is_signed(one.headers, one.body) for one in hook.received)
    event = json.loads(hook.received[0].body)
    assert (event["type"], event["data"]["id"]) == ("usage.recorded", hook.received[0].name)


async def test_what_fails_is_tried_again_with_the_same_id_and_body(store: SqlStore) -> None:
    with hook_server(500, 429, 302, 404) as hook:
        names = await end_jobs(store, 1)
        await Outbox(store.database).open(FINAL)
        await deliver_until(
            hook, store, Clock(), lambda backlog: len(hook.received) >= 5 and not backlog.waiting
        )
    assert [one.name for one in hook.received] == names * 5
    assert len({one.body for one in hook.received}) == 1


async def test_a_system_that_is_too_slow_is_asked_again(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "TRY_S", 0.2)
    with hook_server(HANG) as hook:
        names = await end_jobs(store, 1)
        await Outbox(store.database).open(FINAL)
        await deliver_until(
            hook, store, Clock(), lambda backlog: len(hook.received) >= 2 and not backlog.waiting
        )
        hook.stop.set()
    assert [one.name for one in hook.received] == names * 2


async def test_after_its_days_an_event_is_dead_until_somebody_revives_it(store: SqlStore) -> None:
    clock, outbox = Clock(), Outbox(store.database)
    with hook_server(*[503] * 200) as hook:
        names = await end_jobs(store, 1)
        await outbox.open(FINAL)
        await deliver_until(hook, store, clock, lambda backlog: backlog.dead == 1, days=0.5)
        assert clock.now <= FINAL + DAY_S
        backlog = await outbox.backlog()
        assert (backlog.waiting, backlog.dead, backlog.cause) == (0, 1, "status 503")
        hook.answers.clear()
        assert await outbox.revive(clock.now) == 1
        await deliver_until(hook, store, clock, lambda backlog: backlog == Backlog(), days=0.5)
    assert hook.received[-1].name == names[0]


async def test_without_a_webhook_no_events_are_kept(store: SqlStore) -> None:
    await end_jobs(store, 1)
    await store.sweep(now=FINAL)
    outbox = Outbox(store.database)
    assert await outbox.backlog() == Backlog()
    await outbox.open(FINAL)
    await end_jobs(store, 2)
    await store.sweep(now=FINAL + HOOK_FORGOTTEN_S + 1.0)
    assert await outbox.backlog() == Backlog()


async def test_two_leaders_claim_different_events_and_a_dead_ones_are_due_again(store: SqlStore) -> None:
    outbox = Outbox(store.database)
    await end_jobs(store, *range(1, 9))
    await outbox.open(FINAL)
    await store.sweep(now=FINAL)
    claimed: list[bytes] = []

    async def claim() -> None:
        claimed.extend(one.row.job for one in await outbox.claim(4, now=FINAL, until=FINAL + 60.0))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(claim)
    assert len(claimed) == len(set(claimed)) == 8
    again = await outbox.claim(100, now=FINAL + 60.0, until=FINAL + 120.0)
    assert [one.tries for one in again] == [2] * 8


async def test_whoever_is_killed_between_settlement_and_delivery_loses_nothing(
    postgres: PostgresServer,
) -> None:
    url = postgres.new_database()
    store = SqlStore(await open_postgres(url, size=1), max_jobs=None)
    try:
        with hook_server(HANG, HANG) as hook:
            start = partial(_start, url, hook.url)
            names = await end_jobs(store, 1, 2)  # settled, and then whoever did it is gone
            await Outbox(store.database).open(FINAL)
            first = start(FINAL)
            await trio.to_thread.run_sync(hook.wait, 2)  # both are on their way, and unanswered
            first.send_signal(signal.SIGKILL)
            first.wait()
            assert (await Outbox(store.database).backlog()).waiting == 2
            second = start(FINAL + shell.CLAIM_S + 1.0)
            try:
                await trio.to_thread.run_sync(hook.wait, 2)
                await _emptied(Outbox(store.database))
            finally:
                second.kill()
                second.wait()
            assert sorted(one.name for one in hook.received) == sorted(names * 2)
            assert len({one.body for one in hook.received}) == 2
    finally:
        await store.close()


async def _emptied(outbox: Outbox) -> None:
    with trio.fail_after(30):
        while True:
            if not (await outbox.backlog()).waiting:
                return
            await trio.sleep(0.05)


def _start(url: str, hook: str, now: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.tetherd.usage.deliverer", url, hook, SECRET, str(now)]
    return subprocess.Popen(command, cwd=ROOT)
