"""Files made for the measurements of this folder."""

from __future__ import annotations

import os
from pathlib import Path

_PART_BYTES = 1 << 24


def random_file(path: Path, size: int) -> Path:
    """Nothing in it can be compressed or found twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for at in range(0, size, _PART_BYTES):
            file.write(os.urandom(min(_PART_BYTES, size - at)))
    return path
