"""What a gateway keeps for a while of single jobs: one file each, sealed with a key that only this node can derive."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
import trio
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

_log: Final = structlog.get_logger()


class SealedFiles:
    """Files by job, the oldest forgotten first. key_of: 32 bytes for a job; now: unix seconds. `open` it first."""

    def __init__(
        self,
        folder: Path,
        key_of: Callable[[bytes], bytes],
        *,
        kept_s: float,
        kept_bytes: int,
        now: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._key_of = key_of
        self._kept_s = kept_s
        self._kept_bytes = kept_bytes
        self._now = now
        self._sizes: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        self._total_bytes = 0

    async def open(self) -> None:
        """Find what an earlier life of this node kept."""
        for job, at, size_bytes in await trio.to_thread.run_sync(_found, self._folder):
            self._note(job, at, size_bytes)
        await self._forget()

    async def get(self, job: bytes) -> bytes | None:
        if job not in self._sizes:
            return None
        await self._forget()
        sealed = await trio.to_thread.run_sync(_read, self._path(job))
        if sealed is None:
            return None
        try:
            return SecretBox(self._key_of(job)).decrypt(sealed)
        except (CryptoError, ValueError):
            _log.warning("sealed_file.damaged", job=job.hex(), folder=self._folder.name)
            return None

    async def put(self, job: bytes, plain: bytes) -> None:
        """Keep it if the disk can; who asks for it in vain is told so."""
        sealed = bytes(SecretBox(self._key_of(job)).encrypt(plain))
        try:
            await trio.to_thread.run_sync(_write, self._path(job), sealed)
        except OSError as error:
            _log.warning(
                "sealed_file.not_kept", job=job.hex(), folder=self._folder.name, cause=error.strerror
            )
            return
        self._note(job, self._now(), len(sealed))
        await self._forget()

    async def remove(self, job: bytes) -> None:
        if job in self._sizes:
            self._total_bytes -= self._sizes.pop(job)[1]
            await trio.to_thread.run_sync(_remove, [self._path(job)])

    def _note(self, job: bytes, at: float, size_bytes: int) -> None:
        _, before = self._sizes.pop(job, (0.0, 0))
        self._sizes[job] = (at, size_bytes)
        self._total_bytes += size_bytes - before

    async def _forget(self) -> None:
        """Drop the oldest while they are too old or too many."""
        gone: list[Path] = []
        oldest = self._now() - self._kept_s
        while self._sizes:
            job, (at, size_bytes) = next(iter(self._sizes.items()))
            if at >= oldest and self._total_bytes <= self._kept_bytes:
                break
            del self._sizes[job]
            self._total_bytes -= size_bytes
            gone.append(self._path(job))
        if gone:
            await trio.to_thread.run_sync(_remove, gone)

    def _path(self, job: bytes) -> Path:
        return self._folder / job.hex()


def _found(folder: Path) -> list[tuple[bytes, float, int]]:
    """The files there, oldest first: job, unix seconds, bytes. What is named otherwise is left alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found: list[tuple[bytes, float, int]] = []
    for path in folder.iterdir():
        if path.suffix == ".new":
            path.unlink(missing_ok=True)
        elif len(path.name) == 64 and all(digit in "0123456789abcdef" for digit in path.name):
            about = path.stat()
            found.append((bytes.fromhex(path.name), about.st_mtime, about.st_size))
    return sorted(found, key=lambda one: one[1])


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all. No fsync: what a power cut takes is gone as what was too old."""
    draft = path.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_bytes(data)
    draft.replace(path)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
