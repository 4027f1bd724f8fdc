"""Whole daemons, each a process of its own, on free loopback ports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cli.local_swarm import LocalSwarm


@pytest.fixture
def swarm() -> Iterator[LocalSwarm]:
    """An empty folder for daemons; whatever is started in it is gone afterwards."""
    with LocalSwarm() as swarm:
        yield swarm
