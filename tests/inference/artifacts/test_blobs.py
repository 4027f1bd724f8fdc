"""Files on the disk: verified, resumed after a crash, evicted in order, never more than there is room for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.artifacts import blobs as blobs_module
from inference.artifacts.blobs import Blobs
from inference.artifacts.chunks import (
    MAX_CHUNKS,
    MAX_FILE_BYTES,
    MIN_CHUNK_BYTES,
    Blob,
    Digester,
    check_blob,
    chunk_bytes_for,
)
from p2p.errors import DIGEST_MISMATCH, DISK_FULL, MODEL_INVALID, TetherError
from tests.inference.artifacts.made import cut, made

SIZE = 3 * MIN_CHUNK_BYTES + 5


def fetched(store: Blobs, blob: Blob, data: bytes) -> Path:
    partial = store.begin(blob)
    for index, chunk in enumerate(cut(blob, data)):
        partial.write(index, chunk)
    return partial.finish()


def test_a_file_that_came_in_any_order_is_whole(tmp_path: Path) -> None:
    data, blob = made(SIZE)
    store = Blobs(tmp_path)
    partial = store.begin(blob)
    for index in (3, 0, 2, 1):
        partial.write(index, cut(blob, data)[index])
        assert partial.read(index) == cut(blob, data)[index]
    path = partial.finish()
    assert path.read_bytes() == data
    assert store.path(blob.sha256) == path
    assert store.verify(blob.sha256)
    assert list((tmp_path / "partial").iterdir()) == []


@pytest.mark.parametrize("wrong", [b"", b"x", bytes(MIN_CHUNK_BYTES), bytes(MIN_CHUNK_BYTES + 1)])
def test_a_chunk_that_is_not_what_was_signed_is_never_written(tmp_path: Path, wrong: bytes) -> None:
    _, blob = made(SIZE)
    partial = Blobs(tmp_path).begin(blob)
    with pytest.raises(TetherError) as refused:
        partial.write(0, wrong)
    assert refused.value.code is DIGEST_MISMATCH
    assert partial.done == set()
    partial.close()


def test_a_fetch_goes_on_where_it_broke_off_and_trusts_no_note(tmp_path: Path) -> None:
    data, blob = made(SIZE)
    chunks = cut(blob, data)
    partial = Blobs(tmp_path).begin(blob)
    partial.write(1, chunks[1])
    partial.write(3, chunks[3])
    partial.close()
    with (tmp_path / "partial" / f"{blob.sha256}.chunks").open("ab") as notes:
        notes.write((0).to_bytes(4, "little") + (999).to_bytes(4, "little") + b"\x02")
    with (tmp_path / "partial" / blob.sha256).open("r+b") as file:
        file.seek(blob.offset(3))
        file.write(b"torn")
    resumed = Blobs(tmp_path).begin(blob)
    assert resumed.done == {1}
    for index in (0, 2, 3):
        resumed.write(index, chunks[index])
    assert resumed.finish().read_bytes() == data


def test_room_is_found_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, blob = made(SIZE)
    usage = shutil.disk_usage(tmp_path)._replace(free=blobs_module.RESERVE_BYTES + SIZE - 1)
    monkeypatch.setattr(blobs_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(TetherError) as refused:
        Blobs(tmp_path).begin(blob)
    assert refused.value.code is DISK_FULL
    assert list((tmp_path / "partial").iterdir()) == []


def test_what_was_used_longest_ago_makes_room_but_not_what_is_pinned_or_busy(tmp_path: Path) -> None:
    store = Blobs(tmp_path, budget_bytes=4 * SIZE)
    kept = []
    for number in range(4):
        data, blob = made(SIZE, seed=number)
        fetched(store, blob, data)
        os.utime(tmp_path / "uses" / blob.sha256, (number, number))
        kept.append(blob)
    store.pin(kept[0].sha256)
    store.use(kept[1].sha256)
    data, fifth = made(SIZE, seed=4)
    partial = store.begin(fifth, busy={kept[2].sha256})
    partial.close()
    left = {one.sha256 for one in store.kept()}
    assert left == {kept[0].sha256, kept[1].sha256, kept[2].sha256}
    store.pin(kept[1].sha256)
    with pytest.raises(TetherError) as refused:
        store.begin(made(3 * SIZE, seed=5)[1], busy={kept[2].sha256})
    assert refused.value.code is DISK_FULL


def test_what_is_served_stays(tmp_path: Path) -> None:
    store = Blobs(tmp_path)
    source = tmp_path / "made"
    data, blob = made(SIZE)
    source.write_bytes(data)
    store.adopt(source, blob)
    store.serve(blob.sha256)
    assert store.evict(1 << 62, busy=()) == []
    assert Blobs(tmp_path).evict(1 << 62, busy=()) != []


def test_a_file_of_this_machine_is_taken_without_a_copy_and_once(tmp_path: Path) -> None:
    data, blob = made(SIZE)
    source = tmp_path / "model.gguf"
    source.write_bytes(data)
    store = Blobs(tmp_path / "cache")
    path = store.adopt(source, blob)
    assert path.samefile(source)
    assert store.adopt(source, blob) == path
    source.unlink()
    assert path.read_bytes() == data


def test_what_rotted_on_the_disk_is_found_and_removed(tmp_path: Path) -> None:
    data, blob = made(SIZE)
    store = Blobs(tmp_path)
    path = fetched(store, blob, data)
    path.write_bytes(data[:-1] + b"!")
    assert not store.verify(blob.sha256)
    assert store.path(blob.sha256) is None and store.kept() == []


def test_only_what_is_there_can_be_pinned(tmp_path: Path) -> None:
    with pytest.raises(TetherError):
        Blobs(tmp_path).pin("00" * 32)


@given(st.integers(1, MAX_FILE_BYTES))
def test_any_size_has_few_enough_chunks(size: int) -> None:
    assert -(-size // chunk_bytes_for(size)) <= MAX_CHUNKS


@pytest.mark.parametrize("size", [0, -1, MAX_FILE_BYTES + 1])
def test_a_size_that_is_none_is_refused(size: int) -> None:
    with pytest.raises(TetherError):
        Digester(size)


@pytest.mark.parametrize(
    "blob",
    [
        Blob("zz" * 32, 1, MIN_CHUNK_BYTES, bytes(32)),
        Blob("00" * 31, 1, MIN_CHUNK_BYTES, bytes(32)),
        Blob("../../etc/passwd", 1, MIN_CHUNK_BYTES, bytes(32)),
        Blob("00" * 32, 0, MIN_CHUNK_BYTES, b""),
        Blob("00" * 32, MIN_CHUNK_BYTES + 1, MIN_CHUNK_BYTES, bytes(32)),
        Blob("00" * 32, 1, 1, bytes(32)),
        Blob("00" * 32, 1, 1 << 40, bytes(32)),
        Blob("00" * 32, 1 << 50, MIN_CHUNK_BYTES, bytes(32)),
        Blob("00" * 32, 1, MIN_CHUNK_BYTES, bytes(33)),
    ],
)
def test_a_blob_that_does_not_fit_together_is_refused(blob: Blob) -> None:
    with pytest.raises(TetherError) as refused:
        check_blob(blob)
    assert refused.value.code is MODEL_INVALID
