"""JavaScript peers: installed from their lock file into the user's cache, never into the checkout."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from platformdirs import user_cache_path

NODE: Final = "node"
OLDEST_NODE: Final = 20
INSTALL_S: Final = 300.0
PACKAGES: Final = ("package.json", "package-lock.json")


class Missing(RuntimeError):
    """Node, npm, or the packages cannot be had here; the message says which and why."""


@cache
def install(folder: Path, also: tuple[Path, ...] = ()) -> Path:
    """Where the scripts of a folder can run: a copy, below the packages that its lock file names. Raises Missing.

    also: scripts from elsewhere that they import. Packages are kept, one set for each lock file, so that only the first
    call needs the registry. The scripts are copied, because Node looks for packages from where a script really lies.
    """
    _check_node()
    home = user_cache_path("tether") / "npm" / _digest([folder / name for name in PACKAGES])
    if not home.exists():
        with _made_whole(home) as fresh:
            _copy([folder / name for name in PACKAGES], fresh)
            _fetch(fresh)
    scripts = sorted([*folder.glob("*.mjs"), *also])
    place = home / _digest(scripts)
    if not place.exists():
        with _made_whole(place) as fresh:
            _copy(scripts, fresh)
    return place


def _check_node() -> None:
    for program in (NODE, "npm"):
        if shutil.which(program) is None:
            raise Missing(f"{program} is not installed")
    version = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < OLDEST_NODE:
        raise Missing(f"Node {version.strip()} is too old: {OLDEST_NODE} is needed")


def _fetch(place: Path) -> None:
    """What the lock file names and nothing else, by its digests; no package runs a script of its own."""
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"]
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired as error:
        raise Missing(f"npm ci was not done after {INSTALL_S:.0f} s") from error
    if done.returncode:
        cause = next((line for line in done.stderr.splitlines() if "error" in line), "no reason given")
        raise Missing(f"npm ci failed, most often for want of a network ({cause.strip()})")


@contextmanager
def _made_whole(place: Path) -> Iterator[Path]:
    """A folder that appears under its name once it is complete, whoever else makes the same one meanwhile."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="partial-") as folder:
        fresh = Path(folder) / "made"
        fresh.mkdir()
        yield fresh
        try:
            fresh.rename(place)
        except OSError:
            if not place.exists():
                raise


def _copy(files: Sequence[Path], to: Path) -> None:
    for file in files:
        shutil.copy(file, to)


def _digest(files: Sequence[Path]) -> str:
    sums = [file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest() for file in files]
    return hashlib.sha256(b"".join(sums)).hexdigest()[:16]
