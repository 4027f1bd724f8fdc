"""What --model may name. Pure: text in, one of six kinds of reference out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from inference.demo import MODEL_NAME
from p2p.errors import MODEL_INVALID, TetherError

_CATALOGUE = re.compile(r"([a-z0-9][a-z0-9._-]{0,95})@([A-Za-z0-9][A-Za-z0-9._-]{0,63})")


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """The model that is shipped with Tether."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    path: Path


@dataclass(frozen=True, slots=True)
class HubFile:
    """hf:org/repo/file"""

    repo: str
    file: str


@dataclass(frozen=True, slots=True)
class Url:
    """https:// or s3://"""

    url: str


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """name@version of the swarm's catalogue. A file that is called like that is meant by ./name@version."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class ServerModel:
    """openai:http://host:port/v1#name, a model of a server that somebody runs. url: without the slash at its end.

    embeds: openai-embeddings:http://host:port/v1#name, it makes vectors.
    """

    url: str
    model: str
    embeds: bool = False


Reference = BuiltIn | LocalFile | HubFile | Url | CatalogueEntry | ServerModel


def parse(text: str) -> Reference:
    """Raises TetherError(MODEL_INVALID) for a malformed reference."""
    if not text.strip():
        raise TetherError(MODEL_INVALID, "An empty --model names nothing.", field="model")
    if not text.isprintable():
        raise TetherError(MODEL_INVALID, f"{text!r} has characters that no name has.", field="model")
    if text == MODEL_NAME:
        return BuiltIn()
    if text.startswith("hf:"):
        parts = text[3:].split("/", 2)
        if len(parts) != 3 or not all(parts):
            raise TetherError(MODEL_INVALID, f"{text!r} has to be hf:org/repo/file.", field="model")
        return HubFile(f"{parts[0]}/{parts[1]}", parts[2])
    if text.startswith(("openai:", "openai-embeddings:")):
        return _server(text)
    if text.startswith(("https://", "s3://")):
        return Url(text)
    if "://" in text:
        scheme = text.partition("://")[0]
        raise TetherError(MODEL_INVALID, f"{scheme}:// is none of https:// and s3://.", field="model")
    if match := _CATALOGUE.fullmatch(text):
        return CatalogueEntry(match[1], match[2])
    return LocalFile(Path(text))


def _server(text: str) -> ServerModel:
    scheme, _, rest = text.partition(":")
    wrong = TetherError(MODEL_INVALID, f"It has to be {scheme}:http://host:port/v1#name.", field="model")
    url, _, model = rest.partition("#")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise wrong from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or not model:
        raise wrong
    if parts.username is not None or parts.password is not None:
        detail = "A key has no place in a URL: worker.server_key_env names the variable that has it."
        raise TetherError(MODEL_INVALID, detail, field="model")
    return ServerModel(url.rstrip("/"), model, embeds=scheme == "openai-embeddings")
