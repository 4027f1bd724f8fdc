"""The models that this machine can serve: the built-in one, GGUF files by their path, those of servers that it has."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference.demo import MODEL_NAME, MODEL_PATH, MODEL_VERSION
from inference.gguf import GgufHeader, read_header
from inference.manifest import Manifest
from p2p.errors import MODEL_INVALID, TetherError
from tetherd.registry.references import BuiltIn, LocalFile, ServerModel, parse

MAX_NAME_CHARS: Final = 96


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A file whose header passed the bounded reader. version "": to be taken from the digest of the content.

    manifest: what was published, of a model that was fetched; it was verified then.
    """

    path: Path
    name: str
    version: str
    header: GgufHeader
    manifest: Manifest | None = None


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model of several files: safetensors, and what stands beside them. manifest: as with LocalModel."""

    path: Path
    name: str
    version: str
    manifest: Manifest | None = None


def linked(folder: Path, files: Mapping[str, Path]) -> Path:
    """The files of a cache by the names that an engine looks for."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, path in files.items():
        link = folder / name
        if not link.is_symlink() or link.readlink() != path:
            link.unlink(missing_ok=True)
            link.symlink_to(path)
    return folder


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A model that another program serves. name: as clients ask Tether for it."""

    at: ServerModel
    name: str


def sort_references(references: Sequence[str]) -> tuple[list[str], list[str]]:
    """What --model names on this machine (nothing named: the built-in model), and what is to be fetched."""
    named = list(references) or [MODEL_NAME]
    here = [text for text in named if isinstance(parse(text), BuiltIn | LocalFile | ServerModel)]
    return here, [text for text in named if text not in here]


def find_local(references: Sequence[str]) -> list[LocalModel | LocalServer | ModelFolder]:
    """Find models of this machine by what --model calls them. Raises TetherError(MODEL_INVALID)."""
    found = [_find(text) for text in references]
    names = [model.name for model in found]
    for name in names:
        if names.count(name) > 1:
            raise TetherError(
                MODEL_INVALID, f"Two models are called {name}: rename one of them.", field="model"
            )
    return found


def model_name(path: Path) -> str:
    """A file's name as clients ask for it: lower case, without its ending."""
    return _plain(path.name if path.is_dir() else path.stem)


def _plain(text: str) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:MAX_NAME_CHARS]
    if not name:
        detail = f"{text} has no letter or digit to call the model by."
        raise TetherError(MODEL_INVALID, detail, field="model")
    return name


def _find(text: str) -> LocalModel | LocalServer | ModelFolder:
    match parse(text):
        case BuiltIn():
            return LocalModel(MODEL_PATH, MODEL_NAME, MODEL_VERSION, read_header(MODEL_PATH))
        case LocalFile(path):
            found = _there(path)
            if found.is_dir():
                return ModelFolder(found, model_name(found), "")
            return LocalModel(found, model_name(path), "", read_header(found))
        case ServerModel() as server:
            return LocalServer(server, _plain(server.model))
        case _:
            raise AssertionError(f"{text} is not on this machine")


def _there(path: Path) -> Path:
    """The path in full, links followed: a file or a model's folder. Opening anything else may wait for ever."""
    try:
        found = path.expanduser().resolve(strict=True)
        mode = found.stat().st_mode
    except OSError as error:
        raise TetherError(
            MODEL_INVALID, f"{path} cannot be read: {error.strerror}.", field="model"
        ) from error
    except RuntimeError as error:  # pathlib's word for an unknown ~user and for links that go in a circle
        raise TetherError(MODEL_INVALID, f"{path} cannot be read: {error}", field="model") from error
    if stat.S_ISDIR(mode) and not any(found.glob("*.safetensors")):
        detail = f"{path} is a folder without safetensors: name a GGUF file, or a model's folder."
        raise TetherError(MODEL_INVALID, detail, field="model")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise TetherError(MODEL_INVALID, f"{path} is not a file.", field="model")
    return found
