"""A shipped daemon is closed: whom it admits is decided by certificates alone, and no setting has a say in it."""

from __future__ import annotations

import ast
import inspect
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import TetherError
from p2p.membership import Passport, admit
from p2p.wire import encode
from tests.sources import PACKAGES, files, tree
from tests.swarms import make_swarm

SWARM = make_swarm(2)


def test_only_the_daemon_opens_a_host_and_it_asks_nobody_but_the_certificates() -> None:
    gates = [
        (str(path), keyword.value)
        for path in files(*PACKAGES)
        for call in calls(tree(path), "open_host")
        for keyword in call.keywords
        if keyword.arg == "admit"
    ]
    assert [path for path, _ in gates] == ["tetherd/daemon.py"]
    gate = gates[0][1]
    assert isinstance(gate, ast.Lambda)
    names = {node.id for node in ast.walk(gate.body) if isinstance(node, ast.Name)}
    assert names == {"admit", "shown", "peer", "swarm_id", "time"}
    assert ast.unparse(gate.body) == "admit(shown, peer, swarm_id, time.time())"
    assert list(inspect.signature(admit).parameters) == ["passport", "peer", "swarm_id", "now"]


def test_no_other_call_makes_a_gate() -> None:
    makers = {str(path) for path in files(*PACKAGES) if any(calls(tree(path), "Gate"))}
    assert makers == {"p2p/host/host.py"}


@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(lambda *parts: encode(Passport(*parts)), st.binary(), st.binary(), st.binary()),
    )
)
def test_whatever_a_stranger_shows_it_is_not_admitted(passport: bytes) -> None:
    with pytest.raises(TetherError):
        admit(passport, SWARM.keys[1].node_id, SWARM.swarm_id, time.time())


def calls(module: ast.Module, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node
