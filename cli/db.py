"""tetherctl db: the ledger's schema, asked of the database itself; the daemon need not run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from cli import show
from p2p.errors import CONFIG_INVALID, NOT_FOUND, TetherError

Print = Callable[[Any, Callable[[Any], None]], None]
Url = Annotated[
    str,
    Parameter(
        env_var="TETHER_STORE",
        help="The ledger: sqlite (in the data directory) or postgresql://… .",
        name="--store",
    ),
]


def commands(data_dir: Callable[[], Path], out: Print) -> App:
    """The group. data_dir: of the daemon whose ledger is meant; out: prints an answer, as JSON or by a function."""
    group = App(name="db", help="See, upgrade and check the ledger's schema.")

    @group.command
    def status(*, store: Url = "sqlite") -> None:
        """List the schema's migrations, changing nothing."""
        from tetherd.store.upkeep import status

        out(_ask(status, store, data_dir()), _people)

    @group.command
    def migrate(*, store: Url = "sqlite") -> None:
        """Bring the schema up to date; a daemon that starts does the same."""
        from tetherd.store.upkeep import upgrade

        out(_ask(upgrade, store, data_dir()), _people)

    @group.command
    def check(*, store: Url = "sqlite") -> None:
        """Check that the ledger can be written and keeps what it commits; exit 1 if not."""
        from tetherd.store.upkeep import check

        findings = _ask(check, store, data_dir())
        out(
            findings,
            lambda answer: show.table(answer, {"check": "CHECK", "ok": "OK", "detail": "DETAIL"}, ""),
        )
        if not all(finding["ok"] for finding in findings):
            raise SystemExit(1)

    return group


def _ask(
    ask: Callable[[str, Path], Awaitable[list[dict[str, Any]]]], store: str, data_dir: Path
) -> list[dict[str, Any]]:
    import trio

    ledger = data_dir / "ledger.db"
    if store == "memory":
        raise TetherError(CONFIG_INVALID, "store: a ledger in memory has no schema.", field="store")
    if store == "sqlite" and not ledger.exists():
        raise TetherError(NOT_FOUND, f"There is no ledger at {ledger}: a daemon makes it when it starts.")
    return trio.run(partial(ask, store, ledger))


def _people(answer: list[dict[str, Any]]) -> None:
    show.table(answer, {"name": "MIGRATION", "state": "STATE"}, "No migrations.")
