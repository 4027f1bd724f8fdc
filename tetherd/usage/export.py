"""Usage rows into a file or a bucket: all of them, or nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from p2p.errors import CALL_LOST, USAGE, TetherError
from tetherd.usage.rows import Format, heading, line


def export(
    told: Iterable[dict[str, Any]], to: str, form: Format, environ: Mapping[str, str] = os.environ
) -> int:
    """Write what the daemon tells, line by line, and return how many rows that were.

    The name appears once the last row is written and synced. Raises TetherError, and then nothing is there.
    """
    bucket = to.startswith("s3://")
    try:
        with tempfile.TemporaryDirectory(dir=None if bucket else Path(to).absolute().parent) as room:
            part = Path(room) / "usage"
            rows = _write(part, _whole(told), form)
            if bucket:
                _upload(part, to, environ)
            else:
                part.replace(to)
    except OSError as error:
        raise TetherError(USAGE, f"Cannot write {to}: {error.strerror}.", field="to") from error
    return rows


def _write(path: Path, shapes: Iterable[dict[str, Any]], form: Format) -> int:
    rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(heading(form))
        for shape in shapes:
            file.write(line(shape, form))
            rows += 1
        file.flush()
        os.fsync(file.fileno())
    return rows


def _whole(told: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """The rows before the last word, which says that there are no more. Raises TetherError."""
    for shape in told:
        if "end" in shape:
            return
        yield shape
    raise TetherError(CALL_LOST, "The daemon broke off before the last row; nothing was written.")


def _upload(path: Path, url: str, environ: Mapping[str, str]) -> None:
    from inference.artifacts.origins import open_bucket

    store, key = open_bucket(url, environ)
    import obstore
    from obstore.exceptions import BaseError

    try:
        obstore.put(store, key, path)
    except BaseError as error:
        detail = " ".join(str(error).split())[:200]
        raise TetherError(USAGE, f"{url} cannot be written: {detail}.", field="to") from error
