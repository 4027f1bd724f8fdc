"""llama.cpp's C API as three typed objects: a model, a context with slots, the logits of a row.

Only the engine process imports this. A failed GGML assertion aborts that process, and the daemon goes on.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import llama_cpp as c
import numpy as np

from inference.forward import Abandoned, DecodeError, LoadError, Rows
from inference.tools import MARKERS
from p2p.content import Sampling

Version: Final[str] = c.__version__
MAX_PIECE_BYTES: Final = 1024
_LOG_ERROR: Final = 4
_ABORTED: Final = 2
_IS_SET: Final = ctypes.cast(ctypes.CDLL(None).strlen, c.ggml_abort_callback)
"""ggml asks before every node of a graph whether to stop: strlen says 0 or 1 of a byte with a zero after it, and no
Python runs for it."""


class Model:
    """A loaded model and its vocabulary. told: how much of it has been read, 0 to 1. Raises LoadError."""

    def __init__(
        self,
        path: Path,
        *,
        plain_kernels: bool = False,
        gpu_layers: int = 0,
        only_vocabulary: bool = False,
        told: Callable[[float], None] = lambda _: None,
    ) -> None:
        parameters = c.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers
        parameters.vocab_only = only_vocabulary

        def read(fraction: float, _: object) -> bool:
            told(fraction)
            return True  # false would end the load

        callback = c.llama_progress_callback(read)
        parameters.progress_callback = callback
        if plain_kernels:
            parameters.use_extra_bufts = False
            os.environ["GGML_CPU_TILED_MM"] = "0"
        self.handle: Any = c.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.handle:
            raise LoadError(_last_error())
        self.vocabulary: Any = c.llama_model_get_vocab(self.handle)
        self.vocabulary_size: int = c.llama_vocab_n_tokens(self.vocabulary)
        if not self.vocabulary_size:
            raise LoadError("the model has no vocabulary")
        self._buffer = ctypes.create_string_buffer(MAX_PIECE_BYTES)
        tokens = [self.encode(marker, special=True) for marker in MARKERS]
        self._shown = {ids[0] for ids in tokens if len(ids) == 1}
        # Of tokens that have been asked about: both are asked of every token that an answer gets.
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

    @property
    def keeps_prefixes(self) -> bool:
        """Whether the memory of a text's beginning can be cut out of that of the whole: not in recurrent models."""
        return not (c.llama_model_is_recurrent(self.handle) or c.llama_model_is_hybrid(self.handle))

    @property
    def chat_template(self) -> str:
        template: bytes | None = c.llama_model_chat_template(self.handle, None)
        return (template or b"").decode("utf-8", "replace")

    @property
    def begins_with(self) -> int | None:
        """The token that the model expects at the start of a text."""
        return int(c.llama_vocab_bos(self.vocabulary)) if c.llama_vocab_get_add_bos(self.vocabulary) else None

    @property
    def puts_space_first(self) -> bool:
        """Whether the vocabulary adds a space before the first word of a text, as SentencePiece does."""
        value = ctypes.create_string_buffer(8)
        c.llama_model_meta_val_str(self.handle, b"tokenizer.ggml.add_space_prefix", value, len(value))
        sentencepiece: bool = c.llama_vocab_type(self.vocabulary) == c.LLAMA_VOCAB_TYPE_SPM
        return sentencepiece and value.value != b"false"

    @property
    def bos(self) -> str:
        return self._text(c.llama_vocab_bos(self.vocabulary))

    @property
    def eos(self) -> str:
        return self._text(c.llama_vocab_eos(self.vocabulary))

    def encode(self, text: str, *, special: bool, whole: bool = False) -> list[int]:
        """Tokenize; whole: with the tokens that the model wants before and after a text.

        special: whether the text of a control token becomes that token.
        """
        data = text.encode("utf-8", "replace")
        ids = (c.llama_token * (len(data) + 4))()
        count = c.llama_tokenize(self.vocabulary, data, len(data), ids, len(ids), whole, special)
        if count < 0:
            raise DecodeError(f"llama_tokenize wants {-count} tokens for {len(data)} bytes")
        return list(ids[:count])

    def is_control(self, token: int) -> bool:
        return bool(c.llama_vocab_is_control(self.vocabulary, token))

    def is_end(self, token: int) -> bool:
        """Whether the token ends an answer."""
        end = self._ends.get(token)
        if end is None:
            end = self._ends[token] = bool(c.llama_vocab_is_eog(self.vocabulary, token))
        return end

    def piece(self, token: int) -> bytes:
        """A token's bytes; nothing for a control token, unless it marks a call of a tool."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token, special=token in self._shown)
        return piece

    def _text(self, token: int) -> str:
        return self._piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _piece(self, token: int, *, special: bool) -> bytes:
        length = c.llama_token_to_piece(self.vocabulary, token, self._buffer, MAX_PIECE_BYTES, 0, special)
        return self._buffer.raw[: max(0, length)]


Weights = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class NativeLogits:
    """What may follow one row of the last decode; valid until the next one. row: llama.cpp's own memory."""

    context: Any
    index: int
    row: Weights

    def values(self) -> Weights:
        """One for each token of the vocabulary, to be copied before it is changed."""
        return self.row

    def argmax(self) -> int:
        """The best token, the lowest id among equals."""
        return int(self.row.argmax())

    def draw(self, sampling: Sampling, seed: int) -> int:
        """As Candidates.draw, where nothing changes the model's own logits: the array is made in C."""
        chain = _chain(sampling, seed)
        try:
            return int(c.llama_sampler_sample(chain, self.context, self.index))
        finally:
            c.llama_sampler_free(chain)


class Context:
    """The memory and the batch of one model. step_tokens: rows a decode may have. Raises LoadError.

    Recipe R1: with flash attention and a cache that is not shared between the slots, logits are the same to the bit in
    every order and company if no decode has 64 rows of a slot (ggml then takes a tiled kernel) and single rows are
    computed by one thread (a lone query splits a long cache by the number of threads). Both belong to a decode, so
    exact and fast requests share a context.
    """

    def __init__(self, model: Model, *, slots: int, context_tokens: int, step_tokens: int, threads: int):
        parameters = c.llama_context_default_params()
        parameters.n_ctx = slots * context_tokens
        parameters.n_seq_max = slots
        parameters.n_batch = parameters.n_ubatch = step_tokens
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_ENABLED
        parameters.kv_unified = False
        parameters.no_perf = True
        self._handle: Any = c.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            raise LoadError(_last_error())
        self._memory: Any = c.llama_get_memory(self._handle)
        self._vocabulary_size = model.vocabulary_size
        self._threads = self._lone_threads = threads
        self._batch = _Rows(step_tokens)
        self._abandoned = ctypes.create_string_buffer(2)
        c.llama_set_abort_callback(self._handle, _IS_SET, ctypes.cast(self._abandoned, ctypes.c_void_p))
        self._wanted: list[int] = []
        self._told_at = 0
        self._logits: Weights = np.empty((0, model.vocabulary_size), np.float32)

    def decode(self, rows: Rows, *, exact: bool) -> None:
        """Put rows through the model; exact: a lone one on one thread. Raises DecodeError, Abandoned."""
        lone_threads = 1 if exact else self._threads
        if lone_threads != self._lone_threads:
            c.llama_set_n_threads(self._handle, lone_threads, self._threads)
            self._lone_threads = lone_threads
        self._abandoned[0] = b"\0"
        status = c.llama_decode(self._handle, self._batch.filled(rows))
        if status == _ABORTED:
            raise Abandoned
        if status:
            raise DecodeError(f"llama_decode returned {status}: {_last_error()}")
        self._wanted = rows.wanted
        if self._wanted:
            self._look_at_logits(len(self._wanted))

    def _look_at_logits(self, rows: int) -> None:
        """Those of the last decode: (rows, vocabulary). llama.cpp seldom puts them elsewhere."""
        pointer = c.llama_get_logits(self._handle)
        address = ctypes.addressof(pointer.contents)
        if address != self._told_at or len(self._logits) != rows:
            self._told_at = address
            self._logits = np.ctypeslib.as_array(pointer, (rows, self._vocabulary_size))

    def abandon(self) -> None:
        """From any thread: give up the decode that is under way before its next node; it raises Abandoned."""
        self._abandoned[0] = b"\1"

    def logits(self, index: int) -> NativeLogits:
        """Of the index-th of the rows that the last decode was asked for."""
        return NativeLogits(self._handle, self._wanted[index], self._logits[index])

    def best(self) -> list[int]:
        """The best token after each of those rows, the lowest id among equals."""
        found: list[int] = self._logits.argmax(axis=1).tolist()
        return found

    def keep(self, slot: int, tokens: int) -> None:
        """Forget what a slot holds beyond its first tokens."""
        if not c.llama_memory_seq_rm(self._memory, slot, tokens or -1, -1):
            raise DecodeError(f"llama.cpp cannot cut a slot after {tokens} tokens")

    def copy(self, source: int, target: int) -> None:
        """Give a slot all that another one holds: in memory that is not shared, a part would abort the process."""
        self.keep(target, 0)
        c.llama_memory_seq_cp(self._memory, source, target, -1, -1)


class _Rows:
    """llama.cpp's batch of at most so many rows, over arrays of ours: a row is written in a tenth of the time."""

    def __init__(self, size: int) -> None:
        self._tokens, self._positions, self._slots, ones = (np.ones(size, np.int32) for _ in range(4))
        self._wanted = np.zeros(size, np.int8)
        integers = ctypes.POINTER(ctypes.c_int32)
        first = self._slots.ctypes.data
        slots = (integers * size)(*(ctypes.cast(first + 4 * row, integers) for row in range(size)))
        self._kept = ones, slots
        self._batch: Any = c.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(integers),
            pos=self._positions.ctypes.data_as(integers),
            n_seq_id=ones.ctypes.data_as(integers),
            seq_id=ctypes.cast(slots, ctypes.POINTER(integers)),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def filled(self, rows: Rows) -> Any:
        """The batch, with these rows in it."""
        count = len(rows)
        self._tokens[:count] = rows.tokens
        self._positions[:count] = rows.positions
        self._slots[:count] = rows.slots
        self._wanted[:count] = 0
        self._wanted[rows.wanted] = 1
        self._batch.n_tokens = count
        return self._batch


class Candidates:
    """Tokens that may be drawn, with their logits: llama.cpp's own array over memory of ours."""

    def __init__(self, rows: np.ndarray[Any, Any]) -> None:
        self.rows = rows
        pointer = rows.ctypes.data_as(ctypes.POINTER(c.llama_token_data))
        self.array = c.llama_token_data_array(data=pointer, size=len(rows), selected=-1, sorted=False)

    @classmethod
    def of(cls, tokens: Sequence[int]) -> Candidates:
        """These tokens, all alike."""
        rows = np.zeros(len(tokens), _CANDIDATE)
        rows["id"] = tokens
        return cls(rows)

    @classmethod
    def weighed(cls, logits: np.ndarray[Any, np.dtype[np.float32]]) -> Candidates:
        """The whole vocabulary; logits: of each token by its id."""
        rows = np.zeros(len(logits), _CANDIDATE)
        rows["id"] = np.arange(len(logits), dtype=np.int32)
        rows["logit"] = logits
        return cls(rows)

    def best(self) -> int:
        """The best token, the lowest id among equals; before any sampler has sorted them."""
        return int(self.rows["logit"].argmax())

    def draw(self, sampling: Sampling, seed: int) -> int:
        """Draw one by llama.cpp's samplers, in llama.cpp's order: top k, typical, top p, min p, temperature."""
        chain = _chain(sampling, seed)
        try:
            c.llama_sampler_apply(chain, ctypes.byref(self.array))
            return int(self.array.data[self.array.selected].id)
        finally:
            c.llama_sampler_free(chain)


_CANDIDATE: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def _chain(sampling: Sampling, seed: int) -> Any:
    chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
    if sampling.top_k > 0:
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_top_k(sampling.top_k))
    if sampling.typical_p < 1.0:
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_typical(sampling.typical_p, 1))
    if sampling.top_p < 1.0:
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0.0:
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_min_p(sampling.min_p, 1))
    c.llama_sampler_chain_add(chain, c.llama_sampler_init_temp(sampling.temperature))
    c.llama_sampler_chain_add(chain, c.llama_sampler_init_dist(seed))
    return chain


def start() -> None:
    """Set llama.cpp up in this process, keeping its log to itself."""
    c.llama_log_set(_LOG_CALLBACK, ctypes.c_void_p(0))
    c.llama_backend_init()


def has_gpu() -> bool:
    """Whether this build of llama.cpp can compute on one."""
    return bool(c.llama_supports_gpu_offload())


def system_info() -> str:
    """The CPU features that llama.cpp was built with and found."""
    return bytes(c.llama_print_system_info()).decode("utf-8", "replace")


_errors: list[str] = []


def _keep_error(level: int, text: bytes, _user: object) -> None:
    if level == _LOG_ERROR:
        _errors[:] = [*_errors[-7:], text.decode("utf-8", "replace").strip()]


_LOG_CALLBACK: Final = c.llama_log_callback(_keep_error)
"""Kept here, because llama.cpp calls it for as long as the process lives."""


def _last_error() -> str:
    """The most telling of llama.cpp's last errors: the first of the last burst says why, the others that."""
    told = [line for line in _errors if line]
    return told[0][:300] if told else "llama.cpp gave no reason"
