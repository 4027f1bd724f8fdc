"""A model's manifest: the files it consists of, by content. Its digest is the model's name that nobody can forge."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, NewType

import trio

from inference.gguf import GgufHeader
from p2p.errors import MODEL_INVALID, TetherError
from p2p.messages import Message
from p2p.wire import encode

ManifestDigest = NewType("ManifestDigest", str)
"""SHA-256 of the canonical manifest, hex."""

EngineKind = Literal["llama.cpp", "torch"]
READ_BYTES: Final = 1 << 20

Progress = Callable[[int, int], None]
"""Called with bytes hashed and bytes in all, from a worker thread."""


class ManifestFile(Message, frozen=True):
    """path: relative to the model's folder, with slashes; sha256: hex."""

    path: str
    size: int
    sha256: str


class Manifest(Message, frozen=True):
    """What a model is. context_tokens: what it was made for; chat_template: SHA-256 of it, hex, empty without one."""

    name: str
    version: str
    engine: EngineKind | Literal["openai"]
    files: tuple[ManifestFile, ...]
    context_tokens: int
    chat_template: str = ""

    @property
    def digest(self) -> ManifestDigest:
        """The same manifest has the same digest on every machine: its encoding is canonical (wire.encode)."""
        return ManifestDigest(hashlib.sha256(encode(self)).hexdigest())


@dataclass(slots=True)
class Vouched:
    """A file whose digest is known, and what it looked like then. Loads may come hours later: `check` goes before each.

    sha256: hex.
    """

    path: Path
    sha256: str
    mark: tuple[int, ...]

    async def check(self) -> None:
        """Hash the file again if it looks otherwise. Raises TetherError(MODEL_INVALID) if it is another one now."""
        mark = mark_of(self.path)
        if mark == self.mark:
            return
        sha256, _ = await hash_file(self.path)
        if sha256 != self.sha256:
            detail = (
                f"{self.path} is not the file any more that this node announced: start it again to serve it."
            )
            raise TetherError(MODEL_INVALID, detail, field="model")
        self.mark = mark


def mark_of(path: Path) -> tuple[int, ...]:
    """What changes with a file: where it is, its size and times. Raises TetherError(MODEL_INVALID) if it is gone."""
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


async def manifest_of(
    path: Path, name: str, version: str, header: GgufHeader, *, progress: Progress | None = None
) -> Manifest:
    """Hash a model file, in a thread. Raises TetherError(MODEL_INVALID) if it cannot be read."""
    sha256, size = await hash_file(path, progress=progress)
    template = hashlib.sha256(header.chat_template.encode()).hexdigest() if header.chat_template else ""
    file = ManifestFile(path.name, size, sha256)
    return Manifest(name, version, "llama.cpp", (file,), header.context_length, template)


async def hash_file(path: Path, *, progress: Progress | None = None) -> tuple[str, int]:
    """SHA-256 of a file (hex) and its size in bytes. Cancelling gives up within one read."""
    try:
        return await trio.to_thread.run_sync(partial(_hash, path, progress))
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> TetherError:
    return TetherError(MODEL_INVALID, f"{path} cannot be read: {error.strerror}.", field="model")


def _hash(path: Path, progress: Progress | None) -> tuple[str, int]:
    sha256, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            trio.from_thread.check_cancelled()
            sha256.update(data)
            done += len(data)
            if progress is not None:
                progress(done, max(size, done))
    return sha256.hexdigest(), done
