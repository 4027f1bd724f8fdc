"""Usage rows as the table `usage` holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

import msgspec

from tetherd.store.database import SqlRow
from tetherd.store.protocol import UsageRow

COLUMNS: Final = tuple(item.name for item in fields(UsageRow))
_DECODER: Final = msgspec.json.Decoder(tuple[bytes, ...])


def usage_row(row: SqlRow) -> UsageRow:
    *plain, disputed, receipts = row
    values: list[Any] = [*plain, bool(disputed), _DECODER.decode(receipts)]
    return UsageRow(*values)


def usage_values(row: UsageRow) -> Sequence[Any]:
    """In the order of COLUMNS."""
    values = [getattr(row, name) for name in COLUMNS[:-2]]
    return [*values, int(row.disputed), msgspec.json.encode(row.receipts).decode()]
