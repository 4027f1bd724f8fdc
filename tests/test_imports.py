"""Imports run one way: cli -> tetherd -> inference, topics -> p2p. Read from the source; nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tests.sources import PACKAGES, files, tree

BELOW: Final = {
    "cli": {"tetherd", "inference", "topics", "p2p"},
    "tetherd": {"inference", "topics", "p2p"},
    "inference": {"p2p"},
    "topics": {"p2p"},
    "p2p": set[str](),
}
ROLES: Final = ("tetherd.gateway", "tetherd.orchestrator", "inference.worker")
CONTRACTS: Final = ("tetherd.gateway.answer",)
"""What a role shows to the rest of the house: types and protocols, no behaviour."""
COMPOSITION_ROOT: Final = "tetherd.duties"
LIBP2P_SHELL: Final = ("p2p.host", "p2p.libp2p_*")
SLOW_TO_IMPORT: Final = ("libp2p", "tetherd.http", "starlette", "llama_cpp", "torch")


@dataclass(frozen=True, slots=True)
class Import:
    """One import, in dotted names. at_start: it runs when the importer is imported, not inside a function."""

    importer: str
    imported: str
    at_start: bool

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}"


def test_a_package_imports_only_itself_and_those_below_it() -> None:
    assert [
        str(seen)
        for seen in imports()
        if (to := package(seen.imported)) in PACKAGES
        and to != package(seen.importer)
        and to not in BELOW[package(seen.importer)]
    ] == []


def test_a_role_never_imports_another() -> None:
    assert [
        str(seen)
        for seen in imports()
        if (own := role(seen.importer)) and (other := role(seen.imported)) and own != other
    ] == []


def test_only_a_daemons_duties_know_all_roles() -> None:
    known: dict[str, set[str]] = {}
    for seen in imports():
        if other := role(seen.imported):
            known.setdefault(seen.importer, set()).add(other)
    assert {importer for importer, roles in known.items() if len(roles) > 1} <= {COMPOSITION_ROOT}


def test_libp2p_is_known_to_its_shell_alone() -> None:
    assert [
        str(seen)
        for seen in imports()
        if within(seen.imported, "libp2p") and not any(within(seen.importer, shell) for shell in LIBP2P_SHELL)
    ] == []


def test_asyncio_stays_behind_a_portal() -> None:
    assert [
        str(seen)
        for seen in imports()
        if within(seen.imported, "asyncio") and not seen.importer.endswith(".portal")
    ] == []


def test_a_command_starts_without_the_network_and_the_engine() -> None:
    """Follows the imports that run at start, so that a slow one cannot hide behind a quick module."""
    loaded: set[str] = set()
    waiting = [name for name in modules() if package(name) == "cli"]
    while waiting:
        name = waiting.pop()
        if name in loaded:
            continue
        loaded.add(name)
        waiting += [seen.imported for seen in imports() if seen.importer == name and seen.at_start]
        waiting += [parent for parent in [name.rpartition(".")[0]] if parent]
    assert [name for name in sorted(loaded) if any(within(name, slow) for slow in SLOW_TO_IMPORT)] == []


def package(name: str) -> str:
    return name.partition(".")[0]


def role(name: str) -> str | None:
    """The role that a module belongs to, unless it is the role's contract."""
    if any(within(name, contract) for contract in CONTRACTS):
        return None
    return next((one for one in ROLES if within(name, one)), None)


def within(name: str, place: str) -> bool:
    """True for the place itself and what lies under it; a trailing * stands for the rest of one name."""
    if place.endswith("*"):
        return name.startswith(place[:-1])
    return name == place or name.startswith(place + ".")


@cache
def modules() -> dict[str, Path]:
    """Every module of the house by its dotted name."""
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in files(*PACKAGES)}


@cache
def imports() -> tuple[Import, ...]:
    """Every import in the house, those for the type checker alone included but never `at_start`."""
    return tuple(
        Import(importer, imported, at_start)
        for importer, path in modules().items()
        for node, at_start in statements(tree(path), at_start=True)
        for imported in targets(node, importer, is_package=path.name == "__init__.py")
    )


def statements(parent: ast.AST, at_start: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, at_start
        else:
            delayed = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            yield from statements(node, at_start and not delayed and not for_types)


def targets(node: ast.Import | ast.ImportFrom, importer: str, *, is_package: bool) -> Iterator[str]:
    """The modules that a statement names: `from p2p import errors` is p2p.errors, where that is a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parents = importer.split(".")
        kept = parents[: len(parents) - node.level + is_package]
        base = ".".join([*kept, *filter(None, [node.module])])
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        yield inner if inner in modules() else base
