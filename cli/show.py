"""How the commands print: aligned columns for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from p2p.errors import CONFIG_INVALID, FIELD_INVALID, OUT_OF_RANGE, USAGE, TetherError

_USAGE_CODES = (USAGE, CONFIG_INVALID, FIELD_INVALID, OUT_OF_RANGE)


def as_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], empty: str) -> None:
    """Print rows under the headings of columns (key to heading); empty says what no rows mean."""
    if not rows:
        print(empty)
        return
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
    headings = list(columns.values())
    widths = [max(len(line[i]) for line in [headings, *cells]) for i in range(len(headings))]
    for line in [headings, *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def facts(pairs: Mapping[str, Any]) -> None:
    """Print one thing as aligned name and value lines."""
    width = max(len(name) for name in pairs)
    for name, value in pairs.items():
        print(f"{name.ljust(width)}  {_cell(value)}")


def note(text: str) -> None:
    """Tell people something that is no part of the output."""
    print(text, file=sys.stderr)


def short(node_id: str) -> str:
    """A node id as people compare it: its last eight characters."""
    return f"…{node_id[-8:]}" if len(node_id) > 12 else node_id


def duration(seconds: float) -> str:
    """12s, 3m 4s, 2h 5m, 3d 4h."""
    whole = int(seconds)
    for size, unit, lesser, lesser_unit in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // lesser}{lesser_unit}"
    return f"{whole}s"


def fail(error: TetherError, *, json_wanted: bool = False) -> NoReturn:
    """One clear sentence on stderr (or one JSON object), and the exit code: 2 for usage, 1 for the rest."""
    if json_wanted:
        body = {"error": {"code": error.code.name, "message": error.message, "field": error.field}}
        print(json.dumps(body), file=sys.stderr)
    else:
        print(f"error: {error.message}", file=sys.stderr)
    sys.exit(2 if error.code in _USAGE_CODES else 1)


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case list() | tuple():
            return ", ".join(_cell(item) for item in value) or "-"
        case _:
            return str(value)
