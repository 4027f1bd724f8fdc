"""The docs say what is there: paths exist, flags and metrics are the program's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.sources import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
PATH = re.compile(r"`((?:[\w.-]+/)+(?:[\w-]+\.(?:py|md|sh|sql))?)`")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


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
    counted = (ROOT / "tetherd" / "telemetry" / "metrics.py").read_text()
    named = set(re.findall(r"`(tether_\w+)", OPERATIONS))
    assert len(named) > 8
    assert [name for name in named if f'"{name.removesuffix("_total")}"' not in counted] == []
