"""tetherctl tenants: who may ask."""

from __future__ import annotations

from typing import Any, Final

from cyclopts import App

from cli import show
from cli.context import context, printed
from cli.keys import keys_table

app: Final = App(name="tenants", help="Who may ask this swarm.")
_EMPTY: Final = (
    "No tenants: whoever reaches a gateway may ask. Make one with `tetherctl tenants create NAME`."
)


@app.command(name="list")
def list_() -> None:
    """List the tenants."""

    def people(answer: list[dict[str, Any]]) -> None:
        show.table(answer, {"tenant": "TENANT", "name": "NAME", "state": "STATE"}, _EMPTY)

    printed(context.control.get("/tenants"), people)


@app.command
def create(tenant: str, *, name: str = "") -> None:
    """Make a tenant. From the first one on, every request needs a key.

    Parameters
    ----------
    tenant
        Its id: lower-case letters, digits and dashes.
    name
        What people call it.
    """
    printed(context.control.post("/tenants", {"tenant": tenant, "name": name}), _show)


@app.command(name="show")
def show_(tenant: str) -> None:
    """Show a tenant and its keys."""
    printed(context.control.get(f"/tenants/{tenant}"), _show)


@app.command
def disable(tenant: str) -> None:
    """Refuse all requests of a tenant from now on; those under way are finished."""
    printed(context.control.post(f"/tenants/{tenant}/disable"), _show)


@app.command
def enable(tenant: str) -> None:
    """Take a disabled tenant's requests again."""
    printed(context.control.post(f"/tenants/{tenant}/enable"), _show)


def _show(answer: dict[str, Any]) -> None:
    show.facts({"tenant": answer["tenant"], "name": answer["name"], "state": answer["state"]})
    keys_table(answer["keys"])
