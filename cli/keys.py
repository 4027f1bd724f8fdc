"""tetherctl keys: by what tenants are known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from cyclopts import App

from cli import show
from cli.context import context, printed, seconds

app: Final = App(name="keys", help="The API keys of tenants.")
_COLUMNS: Final = {
    "prefix": "KEY",
    "tenant": "TENANT",
    "state": "STATE",
    "scopes": "SCOPES",
    "expires": "EXPIRES",
    "lastUsed": "LAST USE",
}


@app.command(name="list")
def list_(*, tenant: str = "") -> None:
    """List the keys, by the part that may be shown.

    Parameters
    ----------
    tenant
        Only this one's.
    """
    printed(context.control.get(f"/keys?tenant={tenant}"), keys_table)


@app.command
def create(tenant: str, *, scope: list[str] | None = None, ttl: str | None = None) -> None:
    """Make a key and print it, this once.

    Parameters
    ----------
    tenant
        Whose.
    scope
        infer, or model:NAME for one model; for operators viewer, operator, admin, or such as usage:read. Repeatable.
        Without it: infer, with every model.
    ttl
        How long it is good, such as 90d. Without it: until it is revoked.
    """
    order = {"tenant": tenant, "scopes": scope or [], "ttlS": seconds(ttl) if ttl else None}
    printed(context.control.post("/keys", order), _new)


@app.command
def rotate(key: str, *, overlap: str = "24h") -> None:
    """Make a key in place of another one, and print it, this once.

    Parameters
    ----------
    key
        The old one: its id, or the part that `keys list` shows.
    overlap
        How long the old one is still good.
    """
    printed(context.control.post(f"/keys/{key}/rotate", {"overlapS": seconds(overlap, "overlap")}), _new)


@app.command
def revoke(key: str) -> None:
    """Refuse a key from now on.

    Parameters
    ----------
    key
        Its id, or the part that `keys list` shows.
    """
    printed(context.control.post(f"/keys/{key}/revoke"), lambda answer: keys_table([answer]))


def keys_table(keys: Sequence[dict[str, Any]]) -> None:
    rows = [{**key, "expires": _in(key["expires"]), "lastUsed": _ago(key["lastUsed"])} for key in keys]
    show.table(rows, _COLUMNS, "No keys: make one with `tetherctl keys create TENANT`.")


def _new(answer: dict[str, Any]) -> None:
    print(answer["key"])
    show.note("This is the only time that the key is shown: give it to the tenant now.")


def _in(expires: float | None) -> str | None:
    return None if expires is None else f"in {show.duration(max(0.0, expires - time.time()))}"


def _ago(used: float | None) -> str | None:
    return None if used is None else f"{show.duration(max(0.0, time.time() - used))} ago"
