"""tetherctl usage: what was used, what it costs, and the receipts that prove it."""

from __future__ import annotations

import csv
import json
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from cli import show
from cli.context import context, printed, seconds
from cli.control import error_in
from p2p.errors import CERTIFICATE_INVALID, FIELD_INVALID, TetherError

app: Final = App(name="usage", help="What was used, and what it costs.")
_SUMS: Final = ("requests", "promptTokens", "tokens", "cost", "disputed")


@app.default
def report(
    *,
    by: str = "tenant,model,day",
    format: Literal["table", "csv", "json"] = "table",
    since: str = "",
    until: str = "",
) -> None:
    """Add up what ended jobs came to. A job appears once its bill is final, within a minute of its end.

    Parameters
    ----------
    by
        Columns to group by: tenant, key, model, region, gateway, state, day, month.
    format
        table, csv or json.
    since
        A day such as 2026-11-01 (UTC), or how long ago, such as 7d.
    until
        The same; what ends then or later is left out.
    """
    rows: list[dict[str, Any]] = context.control.get(f"/usage/?by={by}{_span(since, until)}")
    names = [*(name for name in by.split(",") if name), *_SUMS]
    if format == "json" or context.json:
        show.as_json(rows)
    elif format == "csv":
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        headings = {name: name.upper() for name in names} | {"promptTokens": "PROMPT"}
        show.table(rows, headings, "Nothing was used in that time, or this ledger does not know of it.")


@app.command
def export(
    *,
    to: str,
    format: Literal["csv", "jsonl"] = "jsonl",
    from_: Annotated[str, Parameter(name="--from")] = "",
    until: str = "",
) -> None:
    """Write each job that was billed, with an id that stays the same, for a billing system. Needs PostgreSQL.

    Parameters
    ----------
    to
        A file, or s3://bucket/key (AWS's own variables name endpoint, region and keys): all rows, or nothing.
    format
        csv or jsonl.
    from_
        A day such as 2026-11-01 (UTC), or how long ago, such as 7d.
    until
        The same; what ends then or later is left out.
    """
    from tetherd.usage.export import export as write

    rows = write(_rows(_span(from_, until)), to, format)
    printed({"rows": rows, "to": to}, lambda _: print(f"{rows} rows in {to}."))


@app.command
def webhook(*, retry: bool = False) -> None:
    """Show how many events the billing system has not taken yet.

    Parameters
    ----------
    retry
        Try those that were given up once more.
    """
    if retry:
        printed(context.control.post("/usage/webhook"), show.facts)
    else:
        printed(context.control.get("/usage/webhook"), _backlog)


def _backlog(answer: dict[str, Any]) -> None:
    oldest = answer["oldest"]
    since = None if oldest is None else f"{show.duration(max(0.0, time.time() - oldest))} ago"
    show.facts({**answer, "oldest": since, "cause": answer["cause"] or None})


@app.command
def receipts(*, since: str = "", until: str = "") -> None:
    """Write the receipts of jobs, and the credentials of those who signed them, as JSON.

    Parameters
    ----------
    since
        A day such as 2026-11-01 (UTC), or how long ago, such as 7d.
    until
        The same.
    """
    show.as_json(context.control.get(f"/usage/receipts?{_span(since, until).lstrip('&')}"))


@app.command
def verify(file: Path, *, swarm: str = "") -> None:
    """Check receipts offline: signatures, bills, and that whoever signed belongs to the swarm.

    Parameters
    ----------
    file
        What `tetherctl usage receipts` wrote.
    swarm
        The swarm's id, as `tetherctl status` shows it. Without it the file's own is believed.
    """
    from p2p.membership import SwarmId
    from tetherd.usage.proof import check_proofs, read_proofs

    try:
        proofs = read_proofs(file.read_bytes())
    except OSError as error:
        raise TetherError(FIELD_INVALID, f"Cannot read {file}: {error.strerror}.", field="file") from error
    found = check_proofs(proofs, SwarmId(swarm or proofs.swarm))
    if context.json:
        print(json.dumps({"jobs": len(proofs.jobs), "wrong": [[one.job, one.why] for one in found]}))
    else:
        for one in found:
            print(f"{one.job[:16]}  {one.why}")
        print(f"{len(proofs.jobs) - len(found)} of {len(proofs.jobs)} jobs are proven.")
    if found:
        raise TetherError(CERTIFICATE_INVALID, f"{len(found)} jobs are not proven by their receipts.")


def _rows(span: str) -> Iterator[dict[str, Any]]:
    for shape in context.control.follow(f"/usage/rows?{span.lstrip('&')}"):
        if "error" in shape:
            raise error_in(shape)
        yield shape


def _span(since: str, until: str) -> str:
    bounds = {"since": since, "until": until}
    return "".join(f"&{name}={_instant(text, name)!r}" for name, text in bounds.items() if text)


def _instant(text: str, name: str) -> float:
    """Unix seconds. Raises TetherError(FIELD_INVALID)."""
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        try:
            return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
        except ValueError as error:
            raise TetherError(FIELD_INVALID, f"{name} is {text}, which is no day.", field=name) from error
    return time.time() - seconds(text, name)
