"""tetherctl models policy: who may use a model, where, how long its answers may be and what they cost."""

from __future__ import annotations

import time
from typing import Any

from cli import show
from cli.context import context, printed
from tetherd.quotas.money import amount, micros

_EMPTY = "No policies: every tenant may use every model. Make one with `tetherctl models policy NAME …`."


def policy(
    name: str,
    *,
    tenant: str = "",
    allow_tenant: tuple[str, ...] = (),
    deny_tenant: tuple[str, ...] = (),
    region: tuple[str, ...] = (),
    worker: tuple[str, ...] = (),
    max_tokens: int | None = None,
    price_in: str | None = None,
    price_out: str | None = None,
    audit_consent: bool | None = None,
    clear: bool = False,
) -> None:
    """Set what holds of a model. What is not given stays; what is given takes the place of what was said before.

    Parameters
    ----------
    name
        The model, as clients name it, without a version.
    tenant
        For this tenant alone: regions, workers and max-tokens can only narrow what is said for all.
    allow_tenant
        Only these may use it, and see it (repeatable).
    deny_tenant
        These may not (repeatable).
    region
        Only in these regions (repeatable).
    worker
        Only on these workers, by node id (repeatable).
    max_tokens
        The longest answer; -1: no bound.
    price_in
        Money for a million tokens of prompt, such as 0.15; -1: as configured. Needs PostgreSQL.
    price_out
        The same for the answer.
    audit_consent
        Put on record that the tenant agrees to prompts being kept for audits. Tether itself keeps none.
    clear
        Take everything back that is said of the model, or of the tenant and the model.
    """
    order: dict[str, Any] = {"model": name, "tenant": tenant, "clear": clear}
    lists = {"allowTenants": allow_tenant, "denyTenants": deny_tenant, "regions": region, "workers": worker}
    order |= {key: list(names) for key, names in lists.items() if names}
    order |= {"maxTokens": max_tokens, "promptPrice": _price(price_in), "outputPrice": _price(price_out)}
    if audit_consent is not None:
        order["auditConsent"] = time.time() if audit_consent else -1.0
    printed(context.control.post("/policies", order), lambda answer: _table([answer]))


def policies() -> None:
    """List what holds of models."""
    printed(context.control.get("/policies"), _table)


def _price(text: str | None) -> int | None:
    if text is None:
        return None
    return -1 if text == "-1" else micros(text, "price")


def _table(found: list[dict[str, Any]]) -> None:
    rows = [
        {
            "model": one["model"],
            "tenant": one["tenant"] or "all",
            "holds": "; ".join(_words(one)) or "nothing",
        }
        for one in found
    ]
    show.table(rows, {"model": "MODEL", "tenant": "TENANT", "holds": "HOLDS"}, _EMPTY)


def _words(one: dict[str, Any]) -> list[str]:
    lists = {"allowTenants": "only", "denyTenants": "not", "regions": "in", "workers": "on"}
    said = [f"{word} {', '.join(map(show.short, one[key]))}" for key, word in lists.items() if one[key]]
    if one["maxTokens"] is not None:
        said.append(f"at most {one['maxTokens']:,} tokens")
    prices = {"promptPrice": "prompt", "outputPrice": "answer"}
    said += [
        f"{amount(one[key])} a million of {what}" for key, what in prices.items() if one[key] is not None
    ]
    if one["auditConsent"] is not None:
        said.append("audit consented")
    return said
