"""The docs say what is there: paths exist; flags, metrics, messages, frames and errors are the program's own."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import p2p.content
import p2p.membership
import p2p.messages
import p2p.visible
from p2p.errors import CATALOGUE
from p2p.messages import Message, Method
from p2p.rpc.frames import AnyFrame
from tests.sources import PACKAGES, ROOT, files, tree

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
PATH = re.compile(r"`((?:[\w.-]+/)+(?:[\w-]+\.(?:py|md|sh|sql))?)`")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
WIRE = (ROOT / "docs" / "wire-protocol.md").read_text()
HTTP = (ROOT / "docs" / "http-api.md").read_text()
METHODS = {
    f"{owner.name}.{part.name}"
    for path in files(*PACKAGES)
    for owner in tree(path).body
    if isinstance(owner, ast.ClassDef)
    for part in owner.body
    if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    assert [path for path in PATH.findall(page.read_text()) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_another_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_flag_of_the_operations_page_is_one_of_join() -> None:
    join = (ROOT / "cli" / "tetherd.py").read_text()
    flags = re.findall(r"^\| `--([a-z-]+)`", OPERATIONS, re.MULTILINE)
    assert len(flags) > 8
    assert [flag for flag in flags if f"    {flag.replace('-', '_')}: " not in join] == []


def test_every_metric_of_the_operations_page_is_counted() -> None:
    counted = "".join(path.read_text() for path in (ROOT / "tetherd" / "telemetry").glob("*metrics.py"))
    named = set(re.findall(r"`(tether_\w+)", OPERATIONS))
    assert len(named) > 8
    assert [name for name in named if f'"{name.removesuffix("_total")}"' not in counted] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_a_page_names_alone_is_one_of_the_program(page: Path) -> None:
    names = set(re.findall(r"`(\w+\.py)`", page.read_text()))
    assert names - {path.name for path in files(*PACKAGES)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_method_that_a_page_names_is_one_of_a_class(page: Path) -> None:
    named = re.findall(r"`(_?[A-Z]\w*[a-z]\.\w+)`", page.read_text())
    assert [name for name in named if name not in METHODS] == []


def test_the_wire_page_has_every_message_with_its_fields_in_order() -> None:
    written = re.findall(r"^ {4,6}(\w+) \{ ([\w, ]*)\}$", WIRE, re.MULTILINE)
    assert {name: fields.replace(",", "").split() for name, fields in written} == {
        kind.__name__: [field.encode_name for field in msgspec.structs.fields(kind)] for kind in messages()
    }


def test_the_wire_page_has_every_frame_with_its_kind_and_fields() -> None:
    written = re.findall(r"^\| (\d+) \| (\w+) \| \w+ \| ([\w, ]+) \| ", WIRE, re.MULTILINE)
    assert {(int(kind), name): fields.split(", ") for kind, name, fields in written} == {
        (kind.__struct_config__.tag, kind.__name__.upper()): list(kind.__struct_fields__)
        for kind in get_args(AnyFrame)
    }


def test_the_wire_page_has_every_method_with_its_messages() -> None:
    written = re.findall(r"^\| `([\w-]+)` \| [^|]+ \| (\w+) → (\w+)", WIRE, re.MULTILINE)
    rooms = (p2p.messages, p2p.visible)
    methods = {value for room in rooms for value in vars(room).values() if isinstance(value, Method)}
    assert set(written) == {
        (method.name, method.request.__name__, method.answer.__name__) for method in methods
    }


def test_every_error_of_the_http_page_has_the_status_that_it_says() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| ((?:`[A-Z_]+`(?:, )?)+) \|", HTTP, re.MULTILINE)
    assert len(rows) > 15
    for statuses, codes in rows:
        found = [CATALOGUE[code].status for code in re.findall(r"[A-Z_]+", codes)]
        assert sorted(set(found)) == [int(status) for status in statuses.split(", ")], codes


def messages() -> list[type[Message]]:
    """Every message that crosses a wire, and what certificates and tickets are made of."""
    modules = (p2p.messages, p2p.visible, p2p.content, p2p.membership)
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Message) and value.__module__ == module.__name__
        if value is not Message
    ]
