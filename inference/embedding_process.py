"""What the engine process does for a model that embeds: texts to tokens, batches of them to vectors of length 1.

It has no answers that go on from step to step, so commands are carried out one after the other as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp as c
import numpy as np

from inference.engine_wire import Command, Counted, CountInputs, Embed, Embedded, Load, Refused, Report
from inference.forward import DecodeError, LoadError
from inference.native import Model
from p2p.errors import ENGINE_FAILED, FIELD_INVALID, TetherError


class EmbeddingContext:
    """Puts whole inputs through a model at once, each in a slot of its own. Raises LoadError."""

    def __init__(self, model: Model, load: Load) -> None:
        parameters = c.llama_context_default_params()
        parameters.n_seq_max = load.slots
        # An input has to be in one piece to be pooled: a step holds the longest, and is not split by slots, as it
        # would be if they shared no memory (measured: inputs of unequal length then got vectors of their ends).
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = load.context_tokens
        parameters.n_threads = parameters.n_threads_batch = load.threads
        parameters.embeddings = True
        parameters.pooling_type = load.pooling
        parameters.kv_unified = True
        parameters.no_perf = True
        self._handle: Any = c.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            raise LoadError("llama.cpp can make no vectors of this model")
        self._memory: Any = c.llama_get_memory(self._handle)
        self._width, self._room, self._slots = load.dimensions, load.context_tokens, load.slots
        self._batch: Any = c.llama_batch_init(load.context_tokens, 0, 1)

    def embed(self, inputs: Sequence[Sequence[int]]) -> tuple[bytes, ...]:
        """Vectors of length 1, as little-endian float32. Raises DecodeError."""
        if sum(map(len, inputs)) > self._room or len(inputs) > self._slots:
            raise DecodeError("the inputs are more than one step holds")
        if self._memory:
            c.llama_memory_clear(self._memory, True)
        batch, row = self._batch, 0
        for slot, ids in enumerate(inputs):
            for position, token in enumerate(ids):
                batch.token[row], batch.pos[row] = token, position
                batch.n_seq_id[row], batch.seq_id[row][0], batch.logits[row] = 1, slot, True
                row += 1
        batch.n_tokens = row
        if status := c.llama_decode(self._handle, batch):
            raise DecodeError(f"llama_decode returned {status}")
        return tuple(self._vector(slot) for slot in range(len(inputs)))

    def _vector(self, slot: int) -> bytes:
        pointer = c.llama_get_embeddings_seq(self._handle, slot)
        if not pointer:
            raise DecodeError("llama.cpp made no vector")
        values = np.ctypeslib.as_array(pointer, (self._width,)).astype(np.float64)
        length = float(np.linalg.norm(values))
        if not np.isfinite(length) or length == 0.0:
            raise DecodeError("the model made a vector that is no direction")
        return (values / length).astype("<f4").tobytes()


def embed_for_ever(
    model: Model, context: EmbeddingContext, read: Callable[[], Command], tell: Callable[[Report], None]
) -> None:
    """Carry out what comes, until the process ends."""
    while True:
        match read():
            case CountInputs(request, inputs):
                try:
                    tell(Counted(request, tuple(_ids(model, one) for one in inputs)))
                except TetherError as error:
                    tell(Refused(request, error.to_wire()))
            case Embed(request, ids):
                try:
                    tell(Embedded(request, context.embed(ids)))
                except DecodeError as error:
                    tell(Refused(request, TetherError(ENGINE_FAILED, str(error)).to_wire()))
            case _:
                pass  # Cancellations: what is carried out is over in one step.


def _ids(model: Model, text: str | tuple[int, ...]) -> tuple[int, ...]:
    """A text as the model expects it, with its first and last tokens; ids as they stand. Raises FIELD_INVALID."""
    if isinstance(text, str):
        return tuple(model.encode(text, special=False, whole=True))
    if any(not 0 <= token < model.vocabulary_size for token in text):
        detail = f"The model's tokens are 0 to {model.vocabulary_size - 1}."
        raise TetherError(FIELD_INVALID, detail, field="input")
    return text
