"""What `tetherctl status` says to people."""

from __future__ import annotations

from typing import Any

import pytest

from cli.status import MAX_PATHS, tell

ANSWER: dict[str, Any] = {
    "nodeId": "12D3KooWmyself",
    "swarmId": "abc",
    "region": "eu",
    "roles": ["worker"],
    "http": "http://127.0.0.1:7575",
    "state": "ready",
    "orchestrator": None,
    "peers": 2,
    "models": [],
    "lends": None,
    "uptimeSeconds": 61.0,
    "reachability": {
        "state": "private",
        "why": "dials from 0 of 2 networks arrive at /ip4/11.0.0.1/tcp/7576",
    },
    "addresses": ["/ip4/10.0.0.2/tcp/7576"],
    "paths": [
        {"peer": "12D3KooWdirectdirect", "path": "direct", "relay": None, "address": "/ip4/11.0.0.9/tcp/1"},
        {"peer": "12D3KooWhiddenhidden", "path": "relayed", "relay": "12D3KooWthisrelay", "address": None},
    ],
}


def test_it_says_whether_the_node_is_reachable_and_by_whom_peers_are_relayed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell(ANSWER)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    said = {line[0]: " ".join(line[1:]) for line in lines if line}
    assert said["reachable"].startswith("private") and "0 of 2 networks" in said["reachable"]
    assert said["addresses"] == "/ip4/10.0.0.2/tcp/7576"
    assert said["…ctdirect"] == "direct /ip4/11.0.0.9/tcp/1"
    assert said["…enhidden"] == "relayed by …hisrelay -"


def test_a_node_without_peers_has_no_table_and_a_crowd_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    tell({**ANSWER, "paths": []})
    assert "PATH" not in capsys.readouterr().out
    tell({**ANSWER, "paths": ANSWER["paths"][:1] * (MAX_PATHS + 5)})
    assert "and 5 more" in capsys.readouterr().out


def test_a_worker_shows_what_its_machine_has_and_what_its_engines_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = {
        "model": "tiny@1",
        "state": "absent",
        "slots": 16,
        "contextTokens": 4096,
        "threads": 3,
        "gpuLayers": 0,
        "needBytes": 4_200_000_000,
        "exact": None,
        "tokensPerSecond": None,
    }
    lends = {
        "cpu": "AMD EPYC",
        "features": ["avx2", "vnni"],
        "cores": 4,
        "memoryBytes": 24_000_000_000,
        "gpus": [{"name": "NVIDIA L4", "memoryBytes": 24_000_000_000}],
        "budgetBytes": 6_000_000_000,
        "usedBytes": 0,
        "engines": [engine, {**engine, "model": "far@1", "threads": None, "needBytes": 0}],
    }
    tell({**ANSWER, "lends": lends})
    said = capsys.readouterr().out
    for words in (
        "4 cores of AMD EPYC (avx2 vnni), 24 GB",
        "NVIDIA L4 with 24 GB",
        "6 GB to engines",
        "16 x 4096",
    ):
        assert words in said
