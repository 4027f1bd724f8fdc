"""A manifest's digest names the content, on every machine alike."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import trio

from inference.demo import MODEL_PATH
from inference.gguf import read_header
from inference.manifest import READ_BYTES, Manifest, ManifestFile, Vouched, hash_file, manifest_of, mark_of
from p2p.errors import MODEL_INVALID, TetherError


async def test_a_files_hash_is_its_sha256_and_progress_ends_at_its_size(tmp_path: Path) -> None:
    path, data = tmp_path / "data", bytes(range(256)) * (READ_BYTES // 100)
    path.write_bytes(data)
    seen: list[tuple[int, int]] = []
    assert await hash_file(path, progress=lambda done, size: seen.append((done, size))) == (
        hashlib.sha256(data).hexdigest(),
        len(data),
    )
    assert len(seen) == 3 and seen[-1] == (len(data), len(data))


async def test_hashing_gives_up_when_it_is_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(4 * READ_BYTES))
    seen: list[int] = []
    with trio.CancelScope() as scope:

        def progress(done: int, _size: int) -> None:
            seen.append(done)
            trio.from_thread.run_sync(scope.cancel)

        await hash_file(path, progress=progress)
    assert scope.cancelled_caught and seen == [READ_BYTES]


async def test_a_missing_file_is_an_invalid_model(tmp_path: Path) -> None:
    with pytest.raises(TetherError) as refused:
        await hash_file(tmp_path / "missing")
    assert refused.value.code is MODEL_INVALID


async def test_the_same_model_has_the_same_digest_and_another_name_another_one() -> None:
    header = read_header(MODEL_PATH)
    first, second = [await manifest_of(MODEL_PATH, "demo", "1", header) for _ in range(2)]
    assert first.digest == second.digest
    assert first.context_tokens == header.context_length
    assert (await manifest_of(MODEL_PATH, "other", "1", header)).digest != first.digest


def test_a_digest_never_changes_between_versions() -> None:
    manifest = Manifest("m", "1", "llama.cpp", (ManifestFile("a.gguf", 3, "00" * 32),), 512)
    assert manifest.digest == "3ddd9161a12a902dbefadc18e1a919c62f3bd512b505fec351c22e15ac57dd8b"


async def test_a_file_that_was_replaced_since_it_was_hashed_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"announced")
    mark = mark_of(path)
    file = Vouched(path, (await hash_file(path))[0], mark)
    await file.check()
    (tmp_path / "copy").write_bytes(b"announced")
    (tmp_path / "copy").replace(path)
    await file.check()
    assert file.mark == mark_of(path) != mark, "the same content under another inode is hashed once"
    path.write_bytes(b"otherwise")
    with pytest.raises(TetherError, match="not the file any more") as refused:
        await file.check()
    assert refused.value.code is MODEL_INVALID
    path.unlink()
    with pytest.raises(TetherError, match="cannot be read"):
        await file.check()
