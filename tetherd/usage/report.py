"""Usage in groups, as reports show it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from p2p.errors import FIELD_INVALID, TetherError
from tetherd.quotas.money import amount
from tetherd.store.protocol import UsageRow

Column = Callable[[UsageRow], str]
COLUMNS: Final[dict[str, Column]] = {
    "tenant": lambda row: row.tenant,
    "key": lambda row: row.key_id,
    "model": lambda row: row.model,
    "region": lambda row: row.region,
    "gateway": lambda row: row.gateway,
    "state": lambda row: row.state,
    "day": lambda row: _date(row)[:10],
    "month": lambda row: _date(row)[:7],
}
"""By what usage may be grouped; days and months are UTC, of a job's end."""
MAX_GROUPS: Final = 10_000


@dataclass(slots=True)
class _Sum:
    requests: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    micros: int = 0
    disputed: int = 0


@dataclass
class Report:
    """by: names of COLUMNS. Raises TetherError(FIELD_INVALID) for others, and when there are too many groups."""

    by: Sequence[str]
    _sums: dict[tuple[str, ...], _Sum] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.by if name not in COLUMNS]:
            detail = f"There is no column {unknown[0][:40]!r}; there are {', '.join(COLUMNS)}."
            raise TetherError(FIELD_INVALID, detail, field="by")

    def add(self, row: UsageRow) -> None:
        group = tuple(COLUMNS[name](row) for name in self.by)
        if group not in self._sums and len(self._sums) >= MAX_GROUPS:
            detail = f"There are more than {MAX_GROUPS} groups: choose fewer columns or a shorter time."
            raise TetherError(FIELD_INVALID, detail, field="by")
        total = self._sums.setdefault(group, _Sum())
        total.requests += 1
        total.prompt_tokens += row.prompt_tokens
        total.tokens += row.tokens
        total.micros += row.micros
        total.disputed += row.disputed

    def shape(self) -> list[dict[str, Any]]:
        """In the order of the groups. cost: money, as text; disputed: jobs that a gateway did not countersign."""
        return [
            {
                **dict(zip(self.by, group, strict=True)),
                "requests": total.requests,
                "promptTokens": total.prompt_tokens,
                "tokens": total.tokens,
                "cost": amount(total.micros),
                "disputed": total.disputed,
            }
            for group, total in sorted(self._sums.items())
        ]


def _date(row: UsageRow) -> str:
    return datetime.fromtimestamp(row.ended, UTC).isoformat()
