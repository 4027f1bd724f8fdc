"""tetherctl dlq: jobs that died, why, and what becomes of them."""

from __future__ import annotations

import time
from typing import Any, Final

from cyclopts import App

from cli import show
from cli.context import context, printed

app: Final = App(name="dlq", help="Jobs that ended without an answer, and not by their client's fault.")


@app.command(name="list")
def list_(*, limit: int = 50) -> None:
    """List dead letters, newest first.

    Parameters
    ----------
    limit
        How many at most.
    """

    def people(answer: list[dict[str, Any]]) -> None:
        rows = [
            {
                **letter,
                "job": letter["job"][:12],
                "attempts": len(letter["attempts"]),
                "age": show.duration(max(0.0, time.time() - letter["ended"])),
            }
            for letter in answer
        ]
        columns = {key: key.upper() for key in ("job", "tenant", "model", "cause", "attempts", "age")}
        show.table(rows, columns, "No dead letters here.")

    printed(context.control.get(f"/dlq?limit={limit}"), people)


@app.command(name="show")
def show_(job: str) -> None:
    """Show a dead letter: its cause, its attempts, its trace.

    Parameters
    ----------
    job
        The job's id, or the beginning of it.
    """
    printed(context.control.get(f"/dlq/{job}"), _letter)


@app.command
def retry(job: str) -> None:
    """Try its input again, on the gateway that holds it; the answer is for who asks again under the same key.

    Parameters
    ----------
    job
        The job's id, or the beginning of it.
    """
    printed(
        context.control.post(f"/dlq/{job}/retry"), lambda answer: print(f"Tried again as {answer['job']}.")
    )


@app.command
def drop(job: str) -> None:
    """Forget a dead letter.

    Parameters
    ----------
    job
        The job's id, or the beginning of it.
    """
    printed(context.control.post(f"/dlq/{job}/drop"), lambda answer: print(f"Dropped {answer['job']}."))


def _letter(answer: dict[str, Any]) -> None:
    show.facts(
        {key: answer[key] or None for key in ("job", "tenant", "model", "gateway", "cause", "traceId")}
    )
    rows = [{**one, "worker": show.short(one["worker"])} for one in answer["attempts"]]
    columns = {"attempt": "ATTEMPT", "worker": "WORKER", "tokens": "TOKENS", "cause": "CAUSE"}
    show.table(rows, columns, "No attempts.")
