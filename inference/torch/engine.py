"""torch as an `Engine`: the same process, batch and cache as llama.cpp's, with another forward pass.

Imports no torch: that is the engine process's, and takes seconds.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from inference.forward import LoadError
from inference.gguf import GgufHeader, read_header
from inference.llama import LlamaEngine, Program, open_llama
from inference.manifest import hash_file
from inference.offer import Told
from inference.quarantine import Quarantine
from inference.safetensors import read_safetensors
from inference.sizing import LlamaSettings
from inference.torch.shape import from_config
from inference.torch.tokens import chat_template, read_json
from p2p.errors import MODEL_INVALID, TetherError

LIBRARY_BYTES: Final = 400 << 20
"""Of a process that has imported torch, beside any model."""
BYTES_EACH: Final = 4
"""Of a weight, and of an element of the cache: single precision, for the machine's memory is what is reckoned with."""
_PARTS: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def parts_of(folder: Path) -> list[Path]:
    """The files of a safetensors folder that make the model, in order."""
    return [
        *sorted(folder.glob("*.safetensors")),
        *(folder / name for name in _PARTS if (folder / name).is_file()),
    ]


def read_model(path: Path) -> GgufHeader:
    """What a GGUF or a safetensors folder is to torch. Raises TetherError(MODEL_INVALID)."""
    if not has_torch():
        detail = "The torch engine needs PyTorch: pip install 'tether[torch]'."
        raise TetherError(MODEL_INVALID, detail, field="engine")
    header = read_folder(path) if path.is_dir() else read_header(path)
    return replace(
        header,
        size_bytes=header.parameters * BYTES_EACH + LIBRARY_BYTES,
        kv_bytes_per_token=header.kv_bytes_per_token * 2,
        # Of no type that is exact as it stands: torch's products depend on how many rows they have.
        types=frozenset({0}),
    )


def read_folder(folder: Path) -> GgufHeader:
    """The same facts of a safetensors folder. Raises TetherError(MODEL_INVALID)."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        detail = f"{folder} is a folder without *.safetensors: name a GGUF file, or a model's folder."
        raise TetherError(MODEL_INVALID, detail, field="model")
    headers = [read_safetensors(file) for file in files]
    try:
        shape = from_config(read_json(folder / "config.json"))
        template = chat_template(folder, read_json(folder / "tokenizer_config.json"))
    except LoadError as error:
        raise TetherError(MODEL_INVALID, f"{folder} cannot be used: {error}.", field="model") from error
    return GgufHeader(
        architecture="llama",
        context_length=shape.context,
        vocabulary=shape.vocabulary,
        parameters=sum(header.parameters for header in headers),
        size_bytes=sum(header.size_bytes for header in headers),
        tensors=sum(len(header.tensors) for header in headers),
        version=0,
        name=folder.name,
        chat_template=template,
        kv_bytes_per_token=shape.kv_elements * 2,
        layers=shape.layers,
    )


async def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's parts with their names; hex."""
    if not await trio.Path(path).is_dir():
        return (await hash_file(path))[0]
    together = hashlib.sha256()
    for part in parts_of(path):
        together.update(f"{(await hash_file(part))[0]}  {part.name}\n".encode())
    return together.hexdigest()


TORCH: Final = Program("torch", "inference.torch.process", read_model, digest)


def open_torch(
    path: Path,
    settings: LlamaSettings = LlamaSettings(),  # noqa: B008 it is frozen
    *,
    told: Told = lambda _: None,
    quarantine: Quarantine | None = None,
    verify: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
) -> AbstractAsyncContextManager[LlamaEngine]:
    """As `open_llama`, of a GGUF or a safetensors folder. Raises TetherError(MODEL_INVALID | ENGINE_FAILED)."""
    return open_llama(path, settings, told=told, quarantine=quarantine, verify=verify, program=TORCH)
