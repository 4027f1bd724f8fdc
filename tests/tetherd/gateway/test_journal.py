"""What a gateway owes the ledger is on its disk, whatever dies."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from p2p.errors import LEDGER_UNAVAILABLE, TetherError
from p2p.identity import PeerId
from p2p.messages import Settlement
from tests.tetherd.gateway.region import ANSWER, QUESTION, at_once, region
from tetherd.gateway import journal as module
from tetherd.gateway.journal import KEPT_S, RESERVED_BYTES, Entry, Journal, read_records
from tetherd.gateway.settling import MEND_S

LEADER, OTHER = PeerId("12D3leader"), PeerId("12D3other")


def settlement(number: int, *, cause: str = "") -> Settlement:
    return Settlement(number.to_bytes(32, "big"), 1, "done", cause=cause)


def journal(folder: Path, now: float = 1_000.0) -> Journal:
    return Journal(folder / "settlements", now=lambda: now)


def jobs(one: Journal) -> list[int]:
    return [int.from_bytes(debt.settlement.job, "big") for debt in one.owed]


async def opened(folder: Path, now: float = 1_000.0) -> Journal:
    one = journal(folder, now)
    await one.open()
    return one


# ── The file ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_owed_is_owed_in_order_by_the_next_life_and_what_is_paid_is_not(tmp_path: Path) -> None:
    first = await opened(tmp_path)
    debts = [await first.owe(settlement(number), LEADER, {OTHER: number}) for number in range(1, 6)]
    await first.paid(debts[1])
    second = await opened(tmp_path)  # the first one was never closed: it was killed
    assert jobs(second) == [1, 3, 4, 5]
    assert second.owed[0] == debts[0]
    await second.owe(settlement(9), LEADER, {})
    assert jobs(await opened(tmp_path)) == [1, 3, 4, 5, 9]


async def test_all_who_owe_at_once_share_the_flushes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes: list[int] = []
    flush = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: flushes.append(file) or flush(file))
    one = await opened(tmp_path)
    async with trio.open_nursery() as nursery:
        for number in range(1, 51):
            nursery.start_soon(one.owe, settlement(number), LEADER, {})
    assert len(flushes) <= 3
    assert sorted(jobs(await opened(tmp_path))) == list(range(1, 51))


async def test_a_cancellation_does_not_keep_a_debt_off_the_disk(tmp_path: Path) -> None:
    one = await opened(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.owe, settlement(1), LEADER, {})
        nursery.cancel_scope.cancel()
    one.owe_now(settlement(2), LEADER, {})
    assert jobs(await opened(tmp_path)) == [1, 2]


async def test_a_file_that_grew_is_written_anew_with_what_is_owed(tmp_path: Path) -> None:
    one = await opened(tmp_path)
    kept = await one.owe(settlement(1), LEADER, {})
    for number in range(2, 60):
        await one.paid(await one.owe(settlement(number, cause="x" * 20_000), LEADER, {}))
    assert (tmp_path / "settlements").stat().st_size <= RESERVED_BYTES
    assert (await opened(tmp_path)).owed == [kept]


async def test_a_debt_that_the_ledger_would_take_for_a_new_job_is_given_up(tmp_path: Path) -> None:
    await (await opened(tmp_path)).owe(settlement(1), LEADER, {})
    assert jobs(await opened(tmp_path, now=1_000.0 + KEPT_S)) == [1]
    assert jobs(await opened(tmp_path, now=1_001.0 + KEPT_S)) == []


def written(count: int) -> bytes:
    return b"".join(
        module._record(Entry(number, 1.0, LEADER, {}, settlement(number))) for number in range(1, count + 1)
    )


@given(
    count=st.integers(0, 4), cut=st.integers(0, 600), tail=st.sampled_from([b"", b"\0" * 40, b"\0\0\0\x05xx"])
)
def test_a_record_that_was_being_written_when_the_power_went_is_the_end(
    count: int, cut: int, tail: bytes
) -> None:
    data = written(count)
    cut = min(cut, len(data))
    entries, end = read_records(data[:cut] + tail)
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    assert end <= cut
    if cut == len(data):
        assert (len(entries), end) == (count, len(data))


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_bit_that_flipped_spoils_no_record_before_it(at: int, bit: int) -> None:
    data = bytearray(written(4))
    at %= len(data)
    data[at] ^= 1 << bit
    entries, end = read_records(bytes(data))
    assert end <= at
    assert len(entries) == at // (len(data) // 4)


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_a_journal_of_what_holds_in_them(data: bytes) -> None:
    entries, end = read_records(data)
    assert end <= len(data) and (entries == [] or end > 0)


async def test_what_is_torn_off_is_laid_aside_and_new_debts_come_after_what_held(tmp_path: Path) -> None:
    (tmp_path / "settlements").write_bytes(written(2) + written(3)[-50:])
    one = await opened(tmp_path)
    assert jobs(one) == [1, 2]
    assert (tmp_path / "settlements.torn").read_bytes() == written(3)[-50:]
    await one.owe(settlement(7), LEADER, {})
    assert jobs(await opened(tmp_path)) == [1, 2, 7]


# ── A full disk ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tether-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk is a tmpfs, which only root may mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_on_a_full_disk_debts_go_into_the_room_that_was_kept_then_no_new_work_is_taken(
    small_disk: Path,
) -> None:
    one = await opened(small_disk)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError):
        ballast.write_bytes(b"x" * (8 << 20))
    number = 0
    while one.has_room:
        number += 1
        assert number < 1_000
        await one.owe(settlement(number, cause="x" * 10_000), LEADER, {})
    assert number > 40 and one.failing
    assert len(one.owed) == number, "what the disk did not take is still owed"
    ballast.unlink()
    await one.mend()
    assert one.has_room
    assert jobs(await opened(small_disk)) == list(range(1, number + 1))


# ── The gateway ──────────────────────────────────────────────────────────────────────────────────────────────────

AWAY = TetherError(LEDGER_UNAVAILABLE, "The ledger is away.", retry_after_s=1.0)


async def test_while_the_ledger_is_away_answers_are_given_and_settled_in_order_when_it_is_back(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        here.leader.away = AWAY
        for _ in range(3):
            assert len((await here.answer())[0].split()) == len(ANSWER)
        await trio.sleep(60)
        assert (here.counts.unsettled_now, here.leader.settled) == (3, [])
        here.leader.away = None
        settled = await here.settled()
        assert [one.job for one in settled] == [one.job for one in here.leader.asked]
        assert here.counts.unsettled_now == 0


async def test_a_gateway_that_was_killed_settles_in_its_next_life(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with region(folder=tmp_path) as here:
        here.leader.away = AWAY
        await here.answer()
        await trio.sleep(1)
        first = here.leader.asked[0].job
    async with region(folder=tmp_path) as again:
        await trio.sleep(5)
        assert [one.job for one in again.leader.settled] == [first]
        assert again.leader.settled[0].end == "done"


async def test_an_answer_that_a_stop_cut_short_is_settled_as_cancelled_in_the_next_life(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with region(folder=tmp_path) as here:
        here.leader.away = AWAY
        async with here.gateway.submit(QUESTION) as answer:
            await answer.started()
        await trio.sleep(1)
    async with region(folder=tmp_path) as again:
        await trio.sleep(5)
        assert [one.end for one in again.leader.settled] == ["cancelled"]


async def test_a_settlement_that_one_leader_chokes_on_does_not_keep_the_others_waiting(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        here.leader.choke_on = 1
        for _ in range(3):
            await here.answer()
        await trio.sleep(30)
        assert len(here.leader.settled) == 2
        here.leader.choke_on = 0
        assert len(await here.settled()) == 3


async def test_nothing_is_begun_whose_end_could_not_be_written_down(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with region(folder=tmp_path) as here:
        monkeypatch.setattr(module, "MAX_OWED", 1)
        here.leader.away = AWAY
        await here.answer()
        await trio.sleep(1)
        with pytest.raises(TetherError) as caught:
            await here.answer()
        assert (caught.value.code, caught.value.retry_after_s) == (LEDGER_UNAVAILABLE, 5.0)
        here.leader.away = None
        await trio.sleep(MEND_S + 5)
        await here.answer()


async def test_a_journal_in_this_thread_is_the_same(tmp_path: Path) -> None:
    one = Journal(tmp_path / "settlements", now=lambda: 1.0, in_thread=at_once)
    await one.open()
    await one.owe(settlement(1), LEADER, {})
    assert jobs(await opened(tmp_path)) == [1]
