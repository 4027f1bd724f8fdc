"""Which beginnings this worker has computed lately, as the digests that gateways gave them. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from p2p.errors import OUT_OF_RANGE, TetherError
from p2p.messages import MAX_PREFIXES, PREFIX_BYTES

MAX_HELD: Final = 24
"""All of them travel in every health report."""


def check_prefixes(digests: tuple[bytes, ...]) -> None:
    """Raises TetherError(OUT_OF_RANGE) for more or longer ones than a gateway makes."""
    if len(digests) > MAX_PREFIXES or any(len(digest) != PREFIX_BYTES for digest in digests):
        raise TetherError(OUT_OF_RANGE, "prefixes is out of bounds.", field="prefixes")


class HeldPrefixes:
    """The newest MAX_HELD. What the engine gave away since costs a job its advantage, nothing else."""

    def __init__(self) -> None:
        self._held: OrderedDict[bytes, None] = OrderedDict()

    def add(self, digests: Iterable[bytes]) -> None:
        for digest in digests:
            self._held[digest] = None
            self._held.move_to_end(digest)
        while len(self._held) > MAX_HELD:
            self._held.popitem(last=False)

    def digests(self) -> tuple[bytes, ...]:
        return tuple(self._held)
