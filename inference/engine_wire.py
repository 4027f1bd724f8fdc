"""What a daemon and its engine process say to each other: msgpack in length-prefixed frames over two pipes."""

from __future__ import annotations

import struct
from typing import Final, Literal, TypeVar

import msgspec

from p2p.content import ChatMessage, Sampling, TokenLogprob, Tool
from p2p.errors import FRAME_INVALID, TetherError, WireError

MAX_FRAME_BYTES: Final = 64 << 20
"""Both ends are ours; the limit only turns a broken pipe into an error instead of an allocation."""
PREFIX: Final = struct.Struct("<I")


class _Said(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Array-like: both ends are the same version of the same code, and tokens pass here thousands of times a second."""


class Load(_Said, frozen=True):
    """The first command, and only the first. context_tokens: of each slot; model_sha256: hex.

    tested: exactness was tested before, in an earlier process; plain_kernels: without those that make K-quants inexact.
    """

    path: str
    slots: int
    context_tokens: int
    threads: int
    exact: bool
    max_tokens_per_second: float | None
    model_sha256: str
    tested: bool = False
    plain_kernels: bool = False
    gpu_layers: int = 0
    pooling: int = 0
    dimensions: int = 0


class Tokenize(_Said, frozen=True):
    """Exactly one of messages and text is set."""

    request: int
    messages: tuple[ChatMessage, ...] | None
    text: str | None
    tools: tuple[Tool, ...] = ()


class Generate(_Said, frozen=True):
    request: int
    prompt: tuple[int, ...]
    resume: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    scope: bytes = b""
    exact: bool = True


class CountInputs(_Said, frozen=True):
    """Of a model that embeds, as is Embed: the ids of each input."""

    request: int
    inputs: tuple[str | tuple[int, ...], ...]


class Embed(_Said, frozen=True):
    request: int
    ids: tuple[tuple[int, ...], ...]


class Cancel(_Said, frozen=True):
    request: int


class Loading(_Said, frozen=True):
    """fraction: of the model that has been read, 0 to 1; what follows then tells that it goes on by Alive."""

    fraction: float


class Loaded(_Said, frozen=True):
    """exact: whether it was asked for and the self-test found it. tokens_per_second: of one answer alone.

    on_gpu: layers were asked for there, and this llama.cpp was built for it.
    """

    context_tokens: int
    build_tag: str
    exact: bool
    tokens_per_second: float = 0.0
    on_gpu: bool = False


class LoadFailed(_Said, frozen=True):
    reason: str


class Tokenized(_Said, frozen=True):
    request: int
    ids: tuple[int, ...]


class Counted(_Said, frozen=True):
    request: int
    ids: tuple[tuple[int, ...], ...]


class Embedded(_Said, frozen=True):
    request: int
    vectors: tuple[bytes, ...]


class Refused(_Said, frozen=True):
    request: int
    error: WireError


class Produced(_Said, frozen=True):
    """New tokens of an answer, as in `engine.Tokens`."""

    request: int
    ids: tuple[int, ...]
    position: int
    text: str
    finish: Literal["stop", "length"] | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    cached: int = 0

    def joined(self, later: Produced) -> Produced:
        """This and what follows it directly, as one."""
        return Produced(
            self.request,
            self.ids + later.ids,
            self.position,
            self.text + later.text,
            later.finish,
            self.logprobs + later.logprobs,
            later.cached,
        )


class Alive(_Said, frozen=True):
    """The batch goes on: said about once a second while there is work, however slow the model or its owner's limit."""


Command = Load | Tokenize | Generate | CountInputs | Embed | Cancel
Report = Loading | Loaded | LoadFailed | Tokenized | Counted | Embedded | Refused | Produced | Alive

_ENCODER: Final = msgspec.msgpack.Encoder()
_COMMANDS: Final[msgspec.msgpack.Decoder[Command]] = msgspec.msgpack.Decoder(Command)
_REPORTS: Final[msgspec.msgpack.Decoder[Report]] = msgspec.msgpack.Decoder(Report)


def frame(said: Command | Report) -> bytes:
    """One message with its length before it."""
    body = _ENCODER.encode(said)
    return PREFIX.pack(len(body)) + body


def frame_length(prefix: bytes) -> int:
    """Read a frame's 4-byte prefix. Raises TetherError(FRAME_INVALID) for a length over the limit."""
    length: int = PREFIX.unpack(prefix)[0]
    if length > MAX_FRAME_BYTES:
        raise TetherError(FRAME_INVALID, f"The engine's pipe carries a frame of {length} bytes.")
    return length


def read_command(body: bytes) -> Command:
    """Raises TetherError(FRAME_INVALID)."""
    return _decode(_COMMANDS, body)


def read_report(body: bytes) -> Report:
    """Raises TetherError(FRAME_INVALID)."""
    return _decode(_REPORTS, body)


_Union = TypeVar("_Union")


def _decode(decoder: msgspec.msgpack.Decoder[_Union], body: bytes) -> _Union:
    try:
        said: _Union = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TetherError(FRAME_INVALID, "The engine's pipe carries bytes that are no message.") from error
    return said
