"""How `tetherctl status` tells of a node: what it is, where it can be dialled, how its peers are connected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cli import show

MAX_PATHS: Final = 20
"""Peers shown to people; programs get all."""
_REACHABLE: Final = {
    "public": "yes",
    "private": "private: others come over relays, or are dialled from here",
    "unknown": "unknown",
}


def tell(answer: dict[str, Any]) -> None:
    """answer: of /status."""
    leader, reachability = answer["orchestrator"], answer["reachability"]
    show.facts(
        {
            "node": answer["nodeId"],
            "swarm": answer["swarmId"],
            "state": answer["state"],
            "region": answer["region"],
            "roles": answer["roles"],
            "http": answer["http"],
            "orchestrator": "this node" if leader == answer["nodeId"] else leader or "none known",
            "models": answer["models"],
            "up": show.duration(answer["uptimeSeconds"]),
            "reachable": f"{_REACHABLE[reachability['state']]} ({reachability['why']})",
            "addresses": answer["addresses"],
            "peers": answer["peers"],
        }
    )
    _paths(answer["paths"])


def _paths(connected: Sequence[dict[str, Any]]) -> None:
    if not connected:
        return
    rows = [
        {
            "peer": show.short(one["peer"]),
            "path": f"relayed by {show.short(one['relay'])}" if one["relay"] else one["path"],
            "address": one["address"],
        }
        for one in connected[:MAX_PATHS]
    ]
    print()
    show.table(rows, {"peer": "PEER", "path": "PATH", "address": "ADDRESS"}, "")
    if len(connected) > MAX_PATHS:
        print(f"and {len(connected) - MAX_PATHS} more, which `tetherctl --json status` names")
