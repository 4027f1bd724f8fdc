"""Python's collector of cycles, set for a process that serves.

As it comes, it looks through what is new after each 700 objects, which a hundred calls under way are at any time, and
through everything after few such looks. What calls leave behind has no cycles: counting references frees it.
"""

from __future__ import annotations

import gc
from typing import Final

FRESH_OBJECTS: Final = 5_000
"""More than are under way in a busy process, so that few looks find anything still in use."""
LOOKS: Final = 20
"""At the fresh ones for each at the older ones, and at those for each at all."""


def collect_rarely() -> None:
    """Call it once what a process needs is imported: that is never looked through again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(FRESH_OBJECTS, LOOKS, LOOKS)
