"""A daemon whose engine keeps the fixed pace, all else being the real one: python -m benchmarks.gateway.worker join."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from unittest.mock import patch

import trio

from benchmarks.gateway.pace import TEXT, due_s
from cli.tetherd import main
from inference.engine import Engine, EngineInfo, Generation, Prompt, Tokens

_INFO: Final = EngineInfo(context_tokens=4096, slots=128, build_tag="fixed", tokens_per_second=160.0)


class FixedEngine:
    """Needs no processor: what the way to it costs is all that is left."""

    @property
    def info(self) -> EngineInfo:
        return _INFO

    async def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        await trio.lowlevel.checkpoint()
        return (1,) * 8

    @asynccontextmanager
    async def generate(self, generation: Generation) -> AsyncIterator[AsyncIterator[Tokens]]:
        yield self._tokens(generation)

    async def _tokens(self, generation: Generation) -> AsyncIterator[Tokens]:
        began = trio.current_time()
        for token in range(len(generation.resume), generation.max_tokens):
            await trio.sleep_until(began + due_s(token))
            yield Tokens((1,), token, TEXT, "length" if token == generation.max_tokens - 1 else None)


@asynccontextmanager
async def open_fixed(*_: Any, **__: Any) -> AsyncIterator[Engine]:
    yield FixedEngine()


if __name__ == "__main__":
    with patch("tetherd.engines.open_llama", open_fixed):
        main()
