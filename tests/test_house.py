"""What a reader may count on in every file."""

from __future__ import annotations

import ast
from typing import Final

from tests.sources import PACKAGES, ROOT, files, tree

MAX_LINES: Final = 400
SUPERVISOR: Final = "p2p/supervised.py"
"""Answers INTERNAL for the bug of a handler, and says in the log where it is."""
UNSAFE_CODECS: Final = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def test_no_file_is_so_long_that_it_holds_two_things() -> None:
    lengths = {
        path: len((ROOT / path).read_text().splitlines()) for path in files(*PACKAGES, "tests", "benchmarks")
    }
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_nothing_is_caught_that_cannot_be_answered_but_by_the_one_supervisor() -> None:
    broad = [
        str(path)
        for path in files(*PACKAGES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and catches_everything(node.type)
    ]
    assert broad == [SUPERVISOR]


def test_nothing_reads_a_format_that_can_run_code() -> None:
    unsafe = [
        f"{path}:{node.lineno}"
        for path in files(*PACKAGES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Import | ast.ImportFrom) and UNSAFE_CODECS & imported_names(node)
    ]
    assert unsafe == []


def catches_everything(caught: ast.expr | None) -> bool:
    match caught:
        case None:
            return True
        case ast.Tuple(elts=several):
            return any(catches_everything(one) for one in several)
        case ast.Name(id=name):
            return name == "Exception"
        case _:
            return False


def imported_names(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").split(".")[0]}
    return {alias.name.split(".")[0] for alias in node.names}
