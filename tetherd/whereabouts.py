"""Where this node can be dialled and over what it is connected, in the shapes that tools rely on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from p2p.host.paths import Path
from p2p.host.reach.autonat import Finding
from p2p.identity import PeerId


class Place(Protocol):
    """As much of a host as is told here."""

    def addresses(self) -> tuple[str, ...]: ...

    def finding(self) -> Finding: ...

    def paths(self) -> dict[PeerId, Path]: ...


def whereabouts(host: Place) -> dict[str, Any]:
    """For `tetherctl status`."""
    finding = host.finding()
    return {
        "reachability": {"state": finding.state.value, "why": finding.why},
        "addresses": list(host.addresses()),
        "paths": [_path(peer, path) for peer, path in sorted(host.paths().items())],
    }


def by_path(host: Place) -> Mapping[str, int]:
    """How many peers are connected directly, and how many over a relay."""
    return Counter(_kind(path) for path in host.paths().values())


def _path(peer: PeerId, path: Path) -> dict[str, Any]:
    return {
        "peer": peer,
        "path": _kind(path),
        "relay": path.relay,
        "address": str(path.remote) if path.remote else None,
    }


def _kind(path: Path) -> str:
    return "relayed" if path.relay else "direct"
