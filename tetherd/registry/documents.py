"""The catalogue's signed documents as files: each whole or not there, whatever happens while it is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

Kind = Literal["word", "release", "alias"]
KINDS: Final[tuple[Kind, ...]] = ("word", "release", "alias")
"""In the order in which they are read: words first, since what was revoked must not come back."""


class Documents:
    """By name: `demo@1.release`, `llama3.alias`, and words of the authority by their SHA-256."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def all(self) -> Iterator[tuple[str, bytes]]:
        for kind in KINDS:
            for path in sorted(self._folder.glob(f"*.{kind}")):
                yield path.name, path.read_bytes()

    def write(self, name: str, data: bytes) -> bool:
        """False: it is there already, byte for byte."""
        path = self._folder / name
        if path.exists() and path.read_bytes() == data:
            return False
        draft = path.with_name(f"{name}.new")
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        return True

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
