"""The alert rules name metrics and labels that daemons have, and commands that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]

from tetherd.telemetry import ledger_metrics, metrics

RULES: Final = Path(__file__).parents[1] / "deploy" / "prometheus" / "tether.rules.yml"
ALERTS: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
named: Final = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


def known() -> dict[str, str]:
    """The code that counts each metric, by the metric's name without a suffix."""
    code = "".join(Path(str(module.__file__)).read_text() for module in (metrics, ledger_metrics))
    parts = re.split(r'(?="tether_)', code)[1:]
    return {part[1 : part.index('"', 1)]: part.split(")")[0] for part in parts}


@named
def test_an_alert_stands_on_metrics_and_labels_that_are_counted(alert: dict[str, Any]) -> None:
    counted = known()
    selectors = re.findall(r"(tether_\w+?)(?:_total)?(?:\{([^}]*)\})?(?=[\[\s)]|$)", alert["expr"])
    assert selectors
    for name, labels in selectors:
        assert name in counted
        for label in re.findall(r"(\w+)[!=]", labels):
            assert f'"{label}"' in counted[name], f"{name} has no label {label}"


@named
def test_an_alert_says_what_to_do_and_how_urgent_it_is(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert alert["annotations"]["summary"] and alert["annotations"]["description"].endswith(".")
    commands = set(re.findall(r"tetherctl (\w+)", alert["annotations"]["description"]))
    pages = "".join(page.read_text() for page in (RULES.parents[2] / "docs").glob("*.md"))
    assert [one for one in commands if f"`{one}" not in pages and f"tetherctl {one}" not in pages] == []


def test_prometheus_takes_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (Debian: prometheus)")
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
