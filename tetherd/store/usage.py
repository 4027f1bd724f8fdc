"""Usage rows: what ended jobs came to, written once nothing can change it any more."""

from __future__ import annotations

from typing import Final

from p2p.messages import SignedReceipt
from p2p.wire import decode
from tetherd.store.database import Script, Statement, placeholders
from tetherd.store.job_rows import select
from tetherd.store.jobs import LEASE_S
from tetherd.store.outbox import write_events
from tetherd.store.protocol import JobRecord, UsageRow
from tetherd.store.usage_rows import COLUMNS, usage_row, usage_values

KEEP_USAGE_S: Final = 400 * 86_400.0
"""A year, and time to bill it."""
AT_ONCE: Final = 500
"""Rows a statement: 7,500 values."""
FINAL_S: Final = LEASE_S + 1.0
"""After a job's end its bill stands still."""
OVERLAP_S: Final = 120.0
"""How late an end may become known here: from another candidate, or from a leader's slow commit."""


def usage_of(row: JobRecord) -> UsageRow:
    assert row.ended is not None
    return UsageRow(
        job=row.job,
        ended=row.ended,
        created=row.created,
        tenant=row.tenant,
        key_id=row.key_id,
        model=row.model,
        region=row.attempts[-1].region if row.attempts else "",
        gateway=row.gateway,
        state=row.state,
        attempts=len(row.attempts),
        prompt_tokens=row.prompt_tokens,
        tokens=row.tokens,
        micros=row.hold.price.cost(row.prompt_tokens, row.tokens) if row.hold else 0,
        disputed=any(not decode(one, SignedReceipt).gateway_signature for one in row.receipts),
        receipts=row.receipts,
    )


def write_usage(since: float, now: float) -> Script[float]:
    """Write what became final, with an event for whoever bills, and return from when on the next look has to go."""
    where = (
        "WHERE ended >= ? AND ended <= ? AND NOT EXISTS (SELECT 1 FROM usage WHERE usage.job = jobs.job) "
        "ORDER BY ended, job LIMIT ?"
    )
    until = now - FINAL_S
    rows = yield from select(where, since, until, AT_ONCE)
    if rows:
        one = f"({placeholders(len(COLUMNS))})"
        values = [value for row in rows for value in usage_values(usage_of(row))]
        written = yield Statement(
            f"INSERT INTO usage ({', '.join(COLUMNS)}) VALUES {', '.join([one] * len(rows))} "
            "ON CONFLICT (job) DO NOTHING RETURNING job",
            values,
        )
        yield from write_events([bytes(row[0]) for row in written], now)
    yield Statement("DELETE FROM usage WHERE ended < ?", (now - KEEP_USAGE_S,))
    last = rows[-1].ended if len(rows) == AT_ONCE else until
    assert last is not None
    return max(since, last - OVERLAP_S)


def read_usage(since: float, until: float, after: bytes, limit: int) -> Script[list[UsageRow]]:
    rows = yield Statement(
        f"SELECT {', '.join(COLUMNS)} FROM usage WHERE ended >= ? AND ended < ? AND (ended > ? OR job > ?) "
        "ORDER BY ended, job LIMIT ?",
        (since, until, since, after, limit),
    )
    return [usage_row(row) for row in rows]
