"""Verified files by their SHA-256, and those that are still being fetched, on this machine's disk.

    blobs/<sha256>           whole and verified; read-only
    partial/<sha256>         as long as the file will be, with the chunks that have come in their places
    partial/<sha256>.chunks  which those are: four bytes each, in the order in which they came
    uses/<sha256>            when it was used last: the file's own time
    pins/<sha256>            what is never evicted

A chunk is written after it was verified and noted after it was written, without waiting for the disk: after a crash
what is noted is verified again, so at worst a chunk is fetched twice. A file becomes a blob by a rename, once it is on
the disk. All methods may wait for the disk: call them from a thread.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference.artifacts.chunks import Blob, Digester
from p2p.errors import DIGEST_MISMATCH, DISK_FULL, MODEL_INVALID, TetherError

RESERVE_BYTES: Final = 512 << 20
"""Left free on the disk: it is the user's, too."""
_NOTE: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Kept:
    """One blob on the disk. used: unix seconds of its last use."""

    sha256: str
    size: int
    used: float
    pinned: bool


class Blobs:
    """The store. budget_bytes: how much all blobs together may take, None for what the disk has."""

    def __init__(self, root: Path, *, budget_bytes: int | None = None) -> None:
        self._whole = root / "blobs"
        self._partial = root / "partial"
        self._uses = root / "uses"
        self._pins = root / "pins"
        self._budget_bytes = budget_bytes
        self._served: set[str] = set()
        for folder in (self._whole, self._partial, self._uses, self._pins):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path | None:
        """Where a whole blob is; None if it is not here."""
        path = self._whole / sha256
        return path if path.exists() else None

    def use(self, sha256: str) -> Path | None:
        """As path, and counts as a use: what was used last is evicted last."""
        path = self.path(sha256)
        if path is not None:
            (self._uses / sha256).touch()
        return path

    def serve(self, sha256: str) -> None:
        """An engine of this process opens it, now or later: it stays as long as the process does."""
        self._served.add(sha256)

    def kept(self) -> list[Kept]:
        """All whole blobs, the one that was used longest ago first."""
        found = []
        for path in self._whole.iterdir():
            use = self._uses / path.name
            used = use.stat().st_mtime if use.exists() else 0.0
            found.append(Kept(path.name, path.stat().st_size, used, (self._pins / path.name).exists()))
        return sorted(found, key=lambda one: (one.used, one.sha256))

    def pin(self, sha256: str, *, pinned: bool = True) -> None:
        """Raises TetherError(MODEL_INVALID) for what is not here."""
        if self.path(sha256) is None:
            raise TetherError(MODEL_INVALID, f"There is no file {sha256[:12]} in the cache.", field="sha256")
        if pinned:
            (self._pins / sha256).touch()
        else:
            (self._pins / sha256).unlink(missing_ok=True)

    def evict(self, wanted_bytes: int, busy: Collection[str]) -> list[Kept]:
        """Remove what was used longest ago until so many bytes are free, never what is pinned, served or busy."""
        gone = []
        for one in self.kept():
            if wanted_bytes <= 0:
                break
            if not one.pinned and one.sha256 not in self._served and one.sha256 not in busy:
                self._remove(one.sha256)
                wanted_bytes -= one.size
                gone.append(one)
        return gone

    def verify(self, sha256: str) -> bool:
        """Read a whole blob again. False: it is not what it was, and was removed."""
        path = self.path(sha256)
        if path is None:
            return False
        digester = Digester(path.stat().st_size)
        with path.open("rb") as file:
            for length in digester.spans():
                digester.add(file.read(length))
        if digester.blob().sha256 == sha256:
            return True
        self._remove(sha256)
        return False

    def adopt(self, source: Path, blob: Blob) -> Path:
        """Take a file that is on this machine, by a hard link where that can be, else by a copy. It was just hashed."""
        found = self.path(blob.sha256)
        if found is not None:
            return found
        self._make_room(blob.size, busy=())
        draft = self._partial / f"{blob.sha256}.copy"
        draft.unlink(missing_ok=True)
        try:
            os.link(source, draft)
        except OSError:
            shutil.copyfile(source, draft)
        return self._enter(draft, blob.sha256)

    def begin(self, blob: Blob, busy: Collection[str] = ()) -> Partial:
        """Start or resume a fetch. Raises TetherError(DISK_FULL) unless all of it fits."""
        path = self._partial / blob.sha256
        has = path.stat().st_blocks * 512 if path.exists() else 0
        self._make_room(max(0, blob.size - has), busy)
        return Partial(self, path, blob)

    def _make_room(self, needed: int, busy: Collection[str]) -> None:
        kept = sum(one.size for one in self.kept())
        over = 0 if self._budget_bytes is None else kept + needed - self._budget_bytes
        short = needed + RESERVE_BYTES - shutil.disk_usage(self._whole).free
        wanted = max(over, short)
        freed = sum(one.size for one in self.evict(wanted, busy))
        if freed < wanted:
            raise TetherError(
                DISK_FULL,
                f"{needed >> 20} MiB are needed and {max(0, needed - wanted + freed) >> 20} MiB can be had "
                f"(limits: the cache's budget, and {RESERVE_BYTES >> 20} MiB that stay free on the disk).",
            )

    def _remove(self, sha256: str) -> None:
        for folder in (self._whole, self._uses, self._pins):
            (folder / sha256).unlink(missing_ok=True)

    def _enter(self, draft: Path, sha256: str) -> Path:
        path = self._whole / sha256
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_folder(self._whole)
        (self._uses / sha256).touch()
        return path


class Partial:
    """One file that is being fetched. Closed by `finish`, `close` or the end of the process."""

    def __init__(self, store: Blobs, path: Path, blob: Blob) -> None:
        self.blob = blob
        self._store = store
        self._closed = False
        self.path = path
        self._notes_path = path.with_name(f"{path.name}.chunks")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._reserve()
            self.done = self._resume()
            self._notes = os.open(
                self._notes_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
        except BaseException:
            os.close(self._file)
            raise
        os.write(self._notes, b"".join(_NOTE.pack(index) for index in sorted(self.done)))

    def write(self, index: int, data: bytes | bytearray | memoryview) -> None:
        """Verify a chunk and put it in its place. Raises TetherError(DIGEST_MISMATCH | DISK_FULL)."""
        if len(data) != self.blob.length(index) or not self.blob.matches(index, data):
            raise TetherError(
                DIGEST_MISMATCH, f"Chunk {index} of {self.blob.sha256[:12]} is not what was signed."
            )
        try:
            written = os.pwrite(self._file, data, self.blob.offset(index))
        except OSError as error:
            raise TetherError(DISK_FULL, f"Cannot write {self.path}: {error.strerror}.") from error
        if written != len(data):
            raise TetherError(DISK_FULL, f"Only {written} of {len(data)} bytes fit into {self.path}.")
        self.done.add(index)
        os.write(self._notes, _NOTE.pack(index))

    def read(self, index: int) -> bytes:
        """A chunk that is done, for whoever else wants it."""
        return os.pread(self._file, self.blob.length(index), self.blob.offset(index))

    def finish(self) -> Path:
        """All chunks are there: make it a blob. Returns its path."""
        assert len(self.done) == self.blob.count
        os.fsync(self._file)
        self.close()
        path = self._store._enter(self.path, self.blob.sha256)
        self._notes_path.unlink(missing_ok=True)
        return path

    def close(self) -> None:
        """What has come stays for the next try."""
        if not self._closed:
            self._closed = True
            os.close(self._file)
            os.close(self._notes)

    def _reserve(self) -> None:
        try:
            os.posix_fallocate(self._file, 0, self.blob.size)
        except OSError as error:
            raise TetherError(DISK_FULL, f"{self.path} has no room: {error.strerror}.") from error

    def _resume(self) -> set[int]:
        """What was noted before a crash, and is there."""
        try:
            notes = self._notes_path.read_bytes()
        except FileNotFoundError:
            return set()
        noted = {index for (index,) in _NOTE.iter_unpack(notes[: len(notes) // _NOTE.size * _NOTE.size])}
        return {
            index for index in noted if index < self.blob.count and self.blob.matches(index, self.read(index))
        }


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
