"""tetherctl tenants: who may ask."""

from __future__ import annotations

from typing import Any, Final

from cyclopts import App

from cli import show
from cli.context import context, printed
from cli.keys import keys_table
from tetherd.quotas.money import amount, micros

app: Final = App(name="tenants", help="Who may ask this swarm.")
MARK: Final = "tether_"
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


@app.command
def limits(
    name: str,
    *,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    tokens_per_month: int | None = None,
    concurrency: int | None = None,
    budget: str | None = None,
    weight: int | None = None,
) -> None:
    """Set what a tenant, or one of its keys, may use. What is not given stays; 0 takes a limit off.

    Parameters
    ----------
    name
        The tenant, or a key as `keys list` shows it; a request keeps within both.
    requests_per_minute
        Requests in any minute.
    tokens_per_minute
        Tokens in any minute: the prompt's and the most that the answer may have.
    tokens_per_month
        Tokens in a calendar month (UTC). Needs PostgreSQL.
    concurrency
        Requests at a time.
    budget
        Money a calendar month (UTC), such as 12.50, by the models' prices. Needs PostgreSQL.
    weight
        Its share of a busy region beside other tenants'; 1 if nothing is said.
    """
    order = {
        "requestsPerMinute": requests_per_minute,
        "tokensPerMinute": tokens_per_minute,
        "tokensPerMonth": tokens_per_month,
        "concurrency": concurrency,
        "budget": None if budget is None else micros(budget, "budget"),
        "weight": weight,
    }
    if name.startswith(MARK):
        printed(context.control.post(f"/keys/{name}/limits", order), lambda answer: keys_table([answer]))
    else:
        printed(context.control.post(f"/tenants/{name}/limits", order), _show)


def _show(answer: dict[str, Any]) -> None:
    facts = {"tenant": answer["tenant"], "name": answer["name"], "state": answer["state"]}
    show.facts({**facts, "limits": limits_text(answer["limits"])})
    keys_table(answer["keys"])


def limits_text(limits: dict[str, Any]) -> str:
    """In words, what is limited."""
    words = {
        "requestsPerMinute": "requests a minute",
        "tokensPerMinute": "tokens a minute",
        "tokensPerMonth": "tokens a month",
        "concurrency": "at a time",
    }
    said = [f"{limits[name]:,} {what}" for name, what in words.items() if limits[name] is not None]
    if limits["budget"] is not None:
        said.append(f"{amount(limits['budget'])} a month")
    if limits["weight"] != 1:
        said.append(f"weight {limits['weight']}")
    return ", ".join(said) or "none"
