"""Money as whole micro-units of whatever currency the operator means: 12.50 is 12,500,000. Pure, no floats."""

from __future__ import annotations

import re
from typing import Final

from p2p.errors import FIELD_INVALID, TetherError

MICROS: Final = 1_000_000
_AMOUNT: Final = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?")


def micros(text: str, field: str) -> int:
    """Read an amount such as 12.50. Raises TetherError(FIELD_INVALID) naming the field."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        detail = f"{field} is {text[:40]!r}; it has to be an amount like 12.50, with up to 6 decimals."
        raise TetherError(FIELD_INVALID, detail, field=field)
    return int(found[1]) * MICROS + int((found[2] or "").ljust(6, "0"))


def amount(value: int) -> str:
    """As people write it: at least two decimals, and as many as there are."""
    whole, rest = divmod(abs(value), MICROS)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if value < 0 else ''}{whole}.{decimals}"
