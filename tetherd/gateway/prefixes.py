"""Digests of how a request begins, by which the matcher finds a worker that has computed that before. Pure.

Keyed with the tenant's secret, so nobody who sees them can test a guess, and the same beginning of two tenants has two
digests. They tell that two requests of one tenant begin alike, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from p2p.content import SealedInput
from p2p.messages import MAX_PREFIXES, PREFIX_BYTES
from p2p.wire import encode

LEAST_BYTES: Final = 256
"""Below that a prompt is computed sooner than anybody is asked."""
_PERSON: Final = b"tether-prefix"


def prefixes_of(secret: bytes, model: str, content: SealedInput) -> tuple[bytes, ...]:
    """The digests, the shortest beginning first: after each message, or at each doubling of a text."""
    state = hashlib.blake2b(key=secret, person=_PERSON, digest_size=PREFIX_BYTES)
    state.update(encode(SealedInput(model.encode(), tools=content.tools)))
    found: list[bytes] = []
    size = 0
    for part in _parts(content):
        state.update(part)
        size += len(part)
        if size >= LEAST_BYTES:
            found.append(state.copy().digest())
    # The first is what many conversations share, the last are where this one went on before.
    return tuple(found if len(found) <= MAX_PREFIXES else [found[0], *found[1 - MAX_PREFIXES :]])


def _parts(content: SealedInput) -> Iterator[bytes]:
    if content.messages is not None:
        yield from map(encode, content.messages)
        return
    text, start, end = (content.prompt or "").encode(), 0, LEAST_BYTES
    while end <= len(text):
        yield text[start:end]
        start, end = end, 2 * end
