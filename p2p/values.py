"""Values on the DHT: what may be kept under a key, and which of two is the one to believe. Pure.

    /<namespace>/<name>      a key; the namespace says which check its values go through

Whoever keeps a value has checked it, and so does whoever reads it: nobody has to be believed.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

from p2p.errors import FIELD_INVALID, TetherError

MAX_VALUE_BYTES: Final = 256 * 1024
"""A signed manifest with the digests of 4,096 chunks takes 130 KiB."""
MAX_KEY_CHARS: Final = 128

MANIFESTS: Final = "tether-manifest"
"""The namespace of signed manifests, content-addressed."""


class ValueCheck(Protocol):
    """The rules of one namespace. Quick: every value that a peer brings goes through it."""

    @property
    def final(self) -> bool:
        """Whether a key can have one valid value only, so that the first that is found will do."""
        ...

    def rank(self, name: str, value: bytes) -> int | None:
        """None: no valid value for this name. Of two valid ones the higher rank is the newer."""
        ...


class ContentAddressed:
    """The value's SHA-256, in hex, is its name: it proves itself, and can never be another."""

    final: Final = True

    def rank(self, name: str, value: bytes) -> int | None:
        return 0 if hashlib.sha256(value).hexdigest() == name else None


def value_key(namespace: str, name: str) -> str:
    return f"/{namespace}/{name}"


def parsed_key(key: str) -> tuple[str, str]:
    """A key's namespace and name. Raises TetherError(FIELD_INVALID)."""
    empty, _, rest = key.partition("/")
    namespace, _, name = rest.partition("/")
    if empty or not namespace or not name or len(key) > MAX_KEY_CHARS or not key.isascii():
        raise TetherError(FIELD_INVALID, "A key of a value is /namespace/name, in ASCII.", field="key")
    return namespace, name
