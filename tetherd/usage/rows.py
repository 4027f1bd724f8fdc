"""One usage row as billing systems take it: in an export, and as an event. Pure."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any, Final, Literal

from tetherd.quotas.money import amount
from tetherd.store.protocol import UsageRow

Format = Literal["csv", "jsonl"]
COLUMNS: Final = (
    "id",
    "job",
    "created",
    "ended",
    "tenant",
    "keyId",
    "model",
    "region",
    "gateway",
    "state",
    "attempts",
    "promptTokens",
    "tokens",
    "cost",
    "disputed",
)


def event_id(job: bytes) -> str:
    """A job is billed once, so its id is its bill's: whoever takes one twice counts it once."""
    return f"usage_{job.hex()}"


def row_shape(row: UsageRow) -> dict[str, Any]:
    """In the order of COLUMNS. created, ended: ISO 8601 in UTC; cost: money, as text."""
    values = (
        event_id(row.job),
        row.job.hex(),
        date_of(row.created),
        date_of(row.ended),
        row.tenant,
        row.key_id,
        row.model,
        row.region,
        row.gateway,
        row.state,
        row.attempts,
        row.prompt_tokens,
        row.tokens,
        amount(row.micros),
        row.disputed,
    )
    return dict(zip(COLUMNS, values, strict=True))


def date_of(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def heading(form: Format) -> str:
    return ",".join(COLUMNS) + "\n" if form == "csv" else ""


def line(shape: dict[str, Any], form: Format) -> str:
    """One row with its end of line. A text that a spreadsheet would compute is given an apostrophe in CSV."""
    if form == "jsonl":
        return json.dumps(shape, separators=(",", ":"), ensure_ascii=False) + "\n"
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_harmless(shape[name]) for name in COLUMNS])
    return text.getvalue()


def _harmless(value: Any) -> Any:
    return (
        f"'{value}"
        if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        else value
    )
