"""tetherctl: what an operator asks of the daemon on this machine."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from platformdirs import user_data_path

from cli import db, dlq, keys, library, show, tenants, usage
from cli.context import context, printed, seconds
from cli.status import tell
from p2p.errors import FIELD_INVALID, MODEL_NOT_FOUND, TetherError
from tetherd import __version__

app = App(name="tetherctl", help="See and steer the Tether daemon on this machine.", version=__version__)
app.meta.group_parameters = app.group_parameters

app.command(tenants.app)
app.command(keys.app)
app.command(usage.app)
app.command(dlq.app)
library.add_to(app)
app.command(db.commands(lambda: context.data_dir, printed))


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    data_dir: Annotated[
        Path | None, Parameter(help="The daemon's data directory.", env_var="TETHER_DATA_DIR")
    ] = None,
    json: Annotated[bool, Parameter(help="Print JSON.", negative=())] = False,
    url: Annotated[
        str,
        Parameter(
            help="An orchestrator on another machine, https://…; TETHERCTL_KEY is an operator's key.",
            env_var="TETHERCTL_URL",
        ),
    ] = "",
) -> None:
    context.data_dir = data_dir.expanduser() if data_dir else user_data_path("tether")
    context.json = json
    context.url = url
    try:
        app(tokens)
    except TetherError as error:
        show.fail(error, json_wanted=json)


@app.command
def status() -> None:
    """Show this node: what it is, where it can be dialled, and over what its peers are connected."""
    printed(context.control.get("/status"), tell)


@app.command
def nodes() -> None:
    """List the members that this node knows."""

    def people(answer: list[dict[str, Any]]) -> None:
        rows = [
            {
                **node,
                "nodeId": show.short(node["nodeId"]),
                "load": f"{node['load']}/{node['capacity']}" if node["capacity"] else None,
                "lastSeenSeconds": show.duration(node["lastSeenSeconds"]),
            }
            for node in answer
        ]
        columns = {
            "nodeId": "NODE",
            "region": "REGION",
            "state": "STATE",
            "roles": "ROLES",
            "models": "MODELS",
            "load": "LOAD",
            "gpuClass": "DEVICE",
            "lastSeenSeconds": "SEEN",
        }
        show.table(rows, columns, "No members known.")

    printed(context.control.get("/nodes"), people)


@app.command
def jobs(*, limit: int = 50) -> None:
    """List the latest jobs in this node's ledger.

    Parameters
    ----------
    limit
        How many at most, newest first.
    """

    def people(answer: list[dict[str, Any]]) -> None:
        rows = [
            {
                "job": job["job"][:12],
                "state": job["state"],
                "model": job["model"],
                "tenant": job["tenant"],
                "attempts": len(job["attempts"]),
                "worker": show.short(job["attempts"][-1]["worker"]) if job["attempts"] else None,
                "tokens": sum(attempt["tokens"] for attempt in job["attempts"]),
                "cause": job["cause"] or None,
            }
            for job in answer
        ]
        columns = {
            key: key.upper()
            for key in ("job", "state", "model", "tenant", "attempts", "worker", "tokens", "cause")
        }
        show.table(rows, columns, "No jobs in this ledger: another orchestrator may have them.")

    printed(context.control.get(f"/jobs?limit={limit}"), people)


@app.command
def why(job: str) -> None:
    """Tell what became of a job, attempt by attempt.

    Parameters
    ----------
    job
        Its id, or the beginning of it (the x-tether-job header has it).
    """

    def people(answer: dict[str, Any]) -> None:
        show.facts(
            {key: answer[key] or None for key in ("job", "tenant", "model", "state", "cause", "advice")}
        )
        rows = [{**attempt, "worker": show.short(attempt["worker"])} for attempt in answer["attempts"]]
        show.table(
            rows,
            {"worker": "WORKER", "region": "REGION", "tokens": "TOKENS", "cause": "CAUSE"},
            "No attempts.",
        )

    if not re.fullmatch(r"[0-9a-f]{4,64}", job):
        raise TetherError(FIELD_INVALID, "A job id is 4 to 64 hexadecimal digits.", field="job")
    printed(context.control.get(f"/jobs/{job}"), people)


@app.command
def invite(
    *,
    role: tuple[str, ...] = (),
    region: tuple[str, ...] = (),
    ttl: str = "24h",
    uses: int = 1,
) -> None:
    """Print a ticket that lets another machine join.

    Parameters
    ----------
    role
        Grant just this role (repeatable); without it a ticket grants what a new machine needs.
    region
        Let the machine join only this region (repeatable).
    ttl
        How long the ticket is good for: 90s, 30m, 24h, 7d.
    uses
        How many machines may use it.
    """

    def people(answer: dict[str, Any]) -> None:
        print(answer["ticket"])
        if sys.stdout.isatty():
            left = show.duration(answer["expiresAt"] - time.time())
            print(
                f"\nOn the other machine:  tetherd join --region NAME --ticket …   (good for {left})",
                file=sys.stderr,
            )

    order = {"roles": role, "regions": region, "ttlS": seconds(ttl), "uses": uses}
    printed(context.control.post("/invite", order), people)


@app.command
def drain() -> None:
    """Take no new work, finish what runs, then stop the daemon."""
    printed(
        context.control.post("/drain"), lambda answer: print(f"Draining: {answer['running']} still running.")
    )


@app.command
def chat(*prompt: str, model: str | None = None) -> None:
    """Ask one question, or talk: without a question it reads lines.

    Parameters
    ----------
    prompt
        The question.
    model
        Which model; without it the first that the region serves.
    """
    from cli.chat import ask, converse

    base = context.control.shim()
    chosen = model or _first_model()
    if not prompt:
        converse(base, chosen)
        return
    text, outcome = ask(base, chosen, [{"role": "user", "content": " ".join(prompt)}], show=not context.json)
    if context.json:
        show.as_json({"text": text, "tether": outcome})


def main() -> None:
    app.meta()


def _first_model() -> str:
    served = context.control.get("/models")
    if not served:
        raise TetherError(MODEL_NOT_FOUND, "No worker serves a model yet.")
    return str(served[0]["name"])


if __name__ == "__main__":
    main()
