"""What a model consists of, and what its headers say, checked before anything else opens it."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog

from inference.artifacts.release import MAX_FILES, SUFFIXES
from inference.gguf import read_header
from inference.manifest import EngineKind
from inference.safetensors import read_safetensors
from p2p.errors import MODEL_INVALID, TetherError

MAX_TEXT_BYTES: Final = 64 << 20
"""Of a JSON file beside the weights: large vocabularies take some 20 MB as tokenizer.json."""
INDEX: Final = "model.safetensors.index.json"

_Kind = TypeVar("_Kind")
_log: Final = structlog.get_logger()


class _Config(msgspec.Struct, frozen=True):
    """config.json, of a Hugging Face folder."""

    max_position_embeddings: int


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class Contents:
    """files: by the name that each has in the model's folder; chat_template: SHA-256 of it, hex, "" without one."""

    files: Mapping[str, Path]
    engine: EngineKind
    context_tokens: int
    chat_template: str


def read_contents(path: Path, name: str) -> Contents:
    """A GGUF file, which will be called name.gguf, or a folder of safetensors. Raises TetherError(MODEL_INVALID)."""
    if not path.is_dir():
        return _of_gguf(path, f"{name}.gguf")
    files = _files(path)
    weights = [one for one in files if one.endswith(".safetensors")]
    models = [one for one in files if one.endswith(".gguf")]
    if not weights and len(models) == 1:
        return _of_gguf(files[models[0]], f"{name}.gguf")
    if not weights or models:
        raise _wrong(f"{path} is to have one GGUF file, or config.json and safetensors files.")
    return _of_safetensors(path, files, weights)


def main_file(files: Mapping[str, Path]) -> Path | None:
    """The GGUF file among a model's files, if it is such a model."""
    return next((path for name, path in files.items() if name.endswith(".gguf")), None)


def check_files(files: Mapping[str, Path]) -> None:
    """What came from others is checked like what is published. Raises TetherError(MODEL_INVALID)."""
    for name, path in files.items():
        if name.endswith(".gguf"):
            read_header(path)
        elif name.endswith(".safetensors"):
            read_safetensors(path)


def _of_gguf(path: Path, called: str) -> Contents:
    header = read_header(path)
    return Contents({called: path}, "llama.cpp", header.context_length, _digest(header.chat_template))


def _of_safetensors(folder: Path, files: Mapping[str, Path], weights: list[str]) -> Contents:
    if "config.json" not in files:
        raise _wrong(f"{folder} has no config.json beside its safetensors files.")
    context = _read(files["config.json"], _Config).max_position_embeddings
    if context < 1:
        raise _wrong(f"{files['config.json']} names no context length.")
    for name in weights:
        read_safetensors(files[name])
    if INDEX in files and (lacking := set(_read(files[INDEX], _Index).weight_map.values()) - set(weights)):
        raise _wrong(f"{folder} lacks {min(lacking)[:200]}, which {INDEX} names.")
    return Contents(files, "torch", context, _digest(_chat_template(files)))


def _files(folder: Path) -> dict[str, Path]:
    """Those that a model may consist of; the rest is left out, pickles above all."""
    found: dict[str, Path] = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not stat.S_ISREG(path.stat().st_mode):
                continue
            if path.name.endswith(SUFFIXES):
                found[path.name] = path.resolve()
            else:
                _log.info("publish.left_out", file=path.name[:200])
    except OSError as error:
        raise _wrong(f"{folder} cannot be read: {error.strerror}.") from error
    if len(found) > MAX_FILES:
        raise _wrong(f"{folder} has {len(found)} files, and a model has {MAX_FILES} at most.")
    return found


def _chat_template(files: Mapping[str, Path]) -> str:
    if (path := files.get("chat_template.jinja")) is not None:
        return path.read_text("utf-8", "replace")
    if (path := files.get("tokenizer_config.json")) is None:
        return ""
    said: Any = _read(path, dict[str, Any]).get("chat_template", "")
    if isinstance(said, list):  # several by name: the one for chats is called "default"
        named = {one.get("name"): one.get("template") for one in said if isinstance(one, dict)}
        said = named.get("default", "")
    return said if isinstance(said, str) else ""


def _read(path: Path, kind: type[_Kind]) -> _Kind:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise _wrong(f"{path} has over {MAX_TEXT_BYTES >> 20} MiB.")
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _wrong(f"{path} cannot be used: {str(error)[:200]}.") from error


def _digest(template: str) -> str:
    return hashlib.sha256(template.encode()).hexdigest() if template else ""


def _wrong(detail: str) -> TetherError:
    return TetherError(MODEL_INVALID, detail, field="source")
