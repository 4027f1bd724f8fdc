"""Inputs that an engine keeps dying of. Pure: counts of what was under way at each death.

A crash cannot say which of the answers in the batch it came from, so all of them are suspects; an answer that comes to
its end has proven its innocence. Three deaths are more than chance, and the input is refused from then on.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec

from inference.engine import Generation, Prompt

DEATHS: Final = 3
SUSPECTS: Final = 1_024
"""Digests that are remembered, the oldest forgotten first: 64 KiB."""


def digest_of(asked: Generation) -> bytes:
    """What makes an input the same one again: prompt and sampling; where an answer was resumed does not matter."""
    ids = msgspec.msgpack.encode((asked.prompt, asked.sampling))
    return hashlib.blake2b(ids, digest_size=16).digest()


def digest_of_prompt(prompt: Prompt) -> bytes:
    """Of what is rendered and counted before there are ids: an engine can die of that, too."""
    return hashlib.blake2b(
        msgspec.msgpack.encode((prompt.messages, prompt.text, prompt.tools)), digest_size=16
    ).digest()


def digest_of_inputs(inputs: tuple[str | tuple[int, ...], ...]) -> bytes:
    """Of what is to be embedded."""
    return hashlib.blake2b(msgspec.msgpack.encode(inputs), digest_size=16).digest()


class Quarantine:
    """Deaths by input."""

    def __init__(self) -> None:
        self._deaths: OrderedDict[bytes, int] = OrderedDict()

    def __contains__(self, digest: bytes) -> bool:
        return self._deaths.get(digest, 0) >= DEATHS

    def died_with(self, digests: Iterable[bytes]) -> None:
        """The engine died while these were under way; one that was there twice counts once."""
        for digest in set(digests):
            self._deaths[digest] = self._deaths.pop(digest, 0) + 1
        while len(self._deaths) > SUSPECTS:
            self._deaths.popitem(last=False)

    def ended_well(self, digest: bytes) -> None:
        self._deaths.pop(digest, None)
