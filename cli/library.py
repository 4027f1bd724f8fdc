"""tetherctl's commands about models: publish, pull, what is published, what is kept here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from cyclopts import App

from cli import policies, show
from cli.context import context, printed
from cli.control import error_in
from p2p.errors import FIELD_INVALID, TetherError

BAR_CHARS: Final = 24
_UNITS: Final = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_REMOTE: Final = ("hf:", "https://", "s3://")

cache: Final = App(name="cache", help="The model files that this node keeps.")
trust: Final = App(
    name="trust", help="Whose models are loaded; only the node that founded the swarm says so."
)
models: Final = App(name="models", help="The models that the region serves, and what is published.")


def add_to(app: App) -> None:
    for command in (publish, pull, catalogue, alias):
        app.command(command)
    models.command(policies.policy)
    models.command(policies.policies)
    for group in (models, cache, trust):
        app.command(group)


def publish(source: str, *, name: str = "", version: str = "", licence: str = "") -> None:
    """Sign a model and offer it to the swarm; workers serve it with `--model NAME@VERSION`.

    Parameters
    ----------
    source
        A GGUF file, a folder of safetensors, hf:org/repo/file, https://… or s3://….
    name
        What clients ask for. Default: the file's name.
    version
        Default: the beginning of the file's SHA-256.
    licence
        What its licence is called, such as apache-2.0.
    """
    if not source.startswith(_REMOTE):
        source = str(Path(source).expanduser().resolve())
    order = {"source": source, "name": name, "version": version, "licence": licence}
    printed(_errand("/publish", order, "publishing"), _show)


def pull(model: str) -> None:
    """Fetch a published model from whoever has it, and keep it here.

    Parameters
    ----------
    model
        NAME or NAME@VERSION of the catalogue, hf:org/repo/file or https://….
    """
    printed(_errand("/pull", {"model": model}, "fetching"), _show)


def catalogue() -> None:
    """List the models that are published in this swarm, as far as this node has heard."""

    def people(answer: list[dict[str, Any]]) -> None:
        rows = [
            {
                **one,
                "size": size(one["sizeBytes"]),
                "publisher": show.short(one["publisher"]),
                "here": "yes" if one["here"] else None,
            }
            for one in answer
        ]
        columns = {"model": "MODEL", "size": "SIZE", "contextTokens": "CONTEXT", "publisher": "PUBLISHER"}
        show.table(
            rows,
            columns | {"licence": "LICENCE", "aliases": "ALIASES", "state": "STATE", "here": "HERE"},
            "Nothing is published yet: tetherctl publish FILE.",
        )

    printed(context.control.get("/catalogue"), people)


def alias(name: str, model: str) -> None:
    """Let a name mean one published model from now on; the same command leads it back. Answers under way stay.

    Parameters
    ----------
    name
        What clients ask for, such as llama3.
    model
        NAME@VERSION of the catalogue.
    """
    answer = context.control.post("/alias", {"name": name, "model": model})
    printed(answer, _show)
    if not answer["workers"] and not context.json:
        print(f"No worker of this region serves {model} yet: clients of {name} are refused until one does.")


@models.default
def served() -> None:
    """List the models that the region serves, with the copies held and wanted of those that are published."""
    columns = {
        "name": "MODEL",
        "version": "VERSION",
        "contextTokens": "CONTEXT",
        "workers": "WORKERS",
        "loaded": "IN MEMORY",
        "copies": "COPIES",
        "digest": "DIGEST",
    }

    def people(answer: list[dict[str, Any]]) -> None:
        rows = [
            {
                **model,
                "digest": model["digest"][:12],
                "copies": f"{model['held']} of {model['wanted']}" if model["wanted"] else None,
            }
            for model in answer
        ]
        show.table(rows, columns, "No worker serves a model yet: start one with `tetherd join`.")

    copies = {one["model"]: one for one in context.control.get("/copies")}
    served = context.control.get("/models")
    for model in served:
        known = copies.get(f"{model['name']}@{model['version']}", {})
        model |= {"held": known.get("held"), "wanted": known.get("wanted")}
    printed(served, people)


@models.command(name="show")
def show_(model: str) -> None:
    """Show a published model, and which nodes have it.

    Parameters
    ----------
    model
        NAME or NAME@VERSION of the catalogue.
    """
    printed(context.control.get(f"/catalogue/{model}"), _show)


@models.command
def retire(model: str) -> None:
    """Let nobody load a version any more; where it is served, that goes on. Only its publisher can.

    Parameters
    ----------
    model
        NAME@VERSION of the catalogue.
    """
    printed(context.control.post(f"/catalogue/{model}/retire"), _show)


@trust.command
def publisher(node: str, *, revoke: bool = False) -> None:
    """Let a node publish models.

    Parameters
    ----------
    node
        Its node id, as `tetherctl status` shows it there.
    revoke
        Take it back: nothing that it published is loaded any more.
    """
    printed(context.control.post("/trust", {"publisher": node, "revoked": revoke}), _show)


@cache.command(name="ls")
def list_() -> None:
    """List the files, the one that was used longest ago first."""

    def people(answer: list[dict[str, Any]]) -> None:
        rows = [
            {
                "sha256": one["sha256"][:12],
                "models": one["models"],
                "size": size(one["sizeBytes"]),
                "state": "pinned" if one["pinned"] else one["state"],
            }
            for one in answer
        ]
        columns = {"sha256": "SHA256", "models": "MODELS", "size": "SIZE", "state": "STATE"}
        show.table(rows, columns, "The cache is empty.")

    printed(context.control.get("/cache"), people)


@cache.command
def pin(model: str, *, unpin: bool = False) -> None:
    """Never remove a model's files to make room.

    Parameters
    ----------
    model
        NAME or NAME@VERSION.
    unpin
        Allow it again.
    """
    printed(context.control.post(f"/cache/pin/{model}", {"pinned": not unpin}), _show)


@cache.command
def gc(*, free: str = "") -> None:
    """Remove files that are not pinned, the one that was used longest ago first.

    Parameters
    ----------
    free
        Only until so much is free, such as 20G. Default: all of them.
    """

    def people(answer: list[dict[str, Any]]) -> None:
        rows = [
            {"sha256": one["sha256"][:12], "models": one["models"], "size": size(one["sizeBytes"])}
            for one in answer
        ]
        show.table(rows, {"sha256": "REMOVED", "models": "MODELS", "size": "SIZE"}, "Nothing was removed.")

    printed(context.control.post("/cache/gc", {"freeBytes": read_size(free) if free else None}), people)


@cache.command
def verify() -> None:
    """Read all files again and remove what is damaged."""

    def people(answer: dict[str, Any]) -> None:
        rows = [{**one, "sha256": one["sha256"][:12]} for one in answer["files"]]
        show.table(rows, {"sha256": "SHA256", "models": "MODELS", "state": "STATE"}, "The cache is empty.")

    printed(_errand("/cache/verify", {}, "reading"), people)


def size(count: float) -> str:
    """12 B, 3.4 kB, 1.2 GB: as disks are sold."""
    unit = "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def read_size(text: str) -> int:
    """Read 500M or 20G. Raises TetherError(FIELD_INVALID)."""
    number, unit = text[:-1], text[-1:].lower()
    if unit not in _UNITS or not number.replace(".", "", 1).isdecimal():
        raise TetherError(FIELD_INVALID, f"{text!r} has to be like 500M or 20G.", field="free")
    return int(float(number) * _UNITS[unit])


def _show(answer: dict[str, Any]) -> None:
    show.facts({name: value for name, value in answer.items() if value not in ("", None)})


def _errand(path: str, order: dict[str, Any], doing: str) -> Any:
    """Begin long work in the daemon and watch it. The daemon goes on with it when this command is stopped."""
    work = context.control.post(path, order)["work"]
    drawn, shown = False, dict[str, Any]()
    for shown in context.control.follow(f"/work/{work}/events"):
        if sys.stderr.isatty() and not context.json and shown["sizeBytes"]:
            drawn = True
            print(f"\r\x1b[K{progress_line(doing, shown)}", end="", file=sys.stderr, flush=True)
    if drawn:
        print(file=sys.stderr)
    if shown["error"] is not None:
        raise error_in(shown)
    return shown["result"]


def progress_line(doing: str, shown: dict[str, Any]) -> str:
    """fetching  ██████░░░░  42 %  1.2 of 2.9 GB  88.1 MB/s  19s left  3 sources"""
    done, whole, rate = shown["doneBytes"], shown["sizeBytes"], shown["bytesPerSecond"]
    full = BAR_CHARS * done // whole
    parts = [doing, "█" * full + "░" * (BAR_CHARS - full), f"{100 * done // whole:3} %"]
    parts.append(f"{size(done)} of {size(whole)}")
    if rate:
        parts += [f"{size(rate)}/s", f"{show.duration((whole - done) / rate)} left"]
    if shown["sources"]:
        parts.append(f"{shown['sources']} source{'s' if shown['sources'] > 1 else ''}")
    return "  ".join(parts)
